use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use tokio::sync::oneshot;

use super::*;
use crate::table::view::Address;

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
}

async fn server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { serve(listener, "test-0", async { drop(stopped.await) }).await.unwrap() });
    Server { address, stop, tasks }
}

impl Server {
    async fn connect(&mut self) -> SendRequest<Full<Bytes>> {
        let stream = net::connect(&Address::Socket(self.address), Duration::from_secs(2)).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        self.tasks.spawn(async move { drop(connection.await) });
        sender
    }

    async fn ask(&mut self, method: &str, path: &str, body: &str) -> (StatusCode, Bytes) {
        let request = Request::builder().method(method).uri(path).header("x-two", "1").header("x-two", "2");
        let request = request.body(Full::from(body.to_owned())).unwrap();
        let answer = self.connect().await.send_request(request).await.unwrap();
        (answer.status(), answer.into_body().collect().await.unwrap().to_bytes())
    }
}

#[tokio::test]
async fn each_route_answers() {
    let mut server = server().await;
    let cases = [
        ("GET", "/health", "", 200, "OK\n"),
        ("GET", "/hello/guillaume%20x", "", 200, "Hello guillaume x from test-0\n"),
        ("POST", "/fibonacci", r#"{"input": 10}"#, 200, r#"{"result":55}"#),
        (
            "POST",
            "/fibonacci",
            r#"{"input": 94}"#,
            400,
            "the body must be {\"input\": n} with a whole number from 0 to 93\n",
        ),
        ("GET", "/stream?chunks=2&delay_ms=1", "", 200, "chunk 0\nchunk 1\n"),
        ("GET", "/slow?ms=1", "", 200, "waited 1 ms\n"),
        ("POST", "/echo", "x y", 200, "x y"),
        ("POST", "/upload", "12345", 200, r#"{"bytes":5}"#),
        ("GET", "/download?bytes=3", "", 200, "\0\0\0"),
        ("GET", "/headers", "", 200, r#"{"x-two":["1","2"]}"#),
        ("GET", "/status/418", "", 418, "418\n"),
        ("GET", "/status/101", "", 400, "the status must be a number from 200 to 999\n"),
        ("GET", "/nowhere", "", 404, "not a path of the example function; / lists them\n"),
    ];
    for (method, path, body, status, expected) in cases {
        let (answered, content) = server.ask(method, path, body).await;
        assert_eq!((answered.as_u16(), &*String::from_utf8_lossy(&content)), (status, expected), "{method} {path}");
    }
    let other = format!("/call?url=http://127.0.0.1:{}/status/404", server.address.port());
    assert_eq!(server.ask("GET", &other, "").await, (StatusCode::NOT_FOUND, "404\n".into()));
    let (_, content) = server.ask("GET", "/download?bytes=1000000", "").await;
    assert_eq!(content.len(), 1_000_000);
}

#[tokio::test]
async fn running_requests_finish_after_the_stop() {
    let mut server = server().await;
    let mut connection = server.connect().await;
    let request = Request::get("/slow?ms=300").body(Full::default()).unwrap();
    let mut running = std::pin::pin!(connection.send_request(request));
    assert!(timeout(Duration::from_millis(50), &mut running).await.is_err());
    server.stop.send(()).unwrap();
    assert_eq!(running.await.unwrap().status(), StatusCode::OK);
    let refused = net::connect(&Address::Socket(server.address), Duration::from_secs(1)).await;
    assert!(refused.is_err());
    while server.tasks.join_next().await.is_some() {}
}
