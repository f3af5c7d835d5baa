//! Holds the namespaces of a pod and does nothing else. The container runtime ends it with SIGKILL.

fn main() {
    loop {
        std::thread::park();
    }
}
