//! Who is who: a certificate authority of this cluster alone, the certificates it signs, one token for each component,
//! and the files with which each reaches the API server. Authorization is Node and RBAC, as on any real cluster, so
//! every component is who its default role expects.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;

use super::plan::{self, Node};
use super::state::State;

/// Names under which pods, and we, reach the API server.
const API_NAMES: &[&str] = &[
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
];
const TOKEN_BYTES: usize = 24;

/// Somebody whom the API server knows by a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    user: String,
    groups: &'static [&'static str],
}

impl Identity {
    pub(crate) fn administrator() -> Self {
        Self { user: "admin".to_owned(), groups: &["system:masters"] }
    }

    pub(crate) fn controller_manager() -> Self {
        Self { user: "system:kube-controller-manager".to_owned(), groups: &[] }
    }

    pub(crate) fn scheduler() -> Self {
        Self { user: "system:kube-scheduler".to_owned(), groups: &[] }
    }

    pub(crate) fn proxy() -> Self {
        Self { user: "system:kube-proxy".to_owned(), groups: &[] }
    }

    pub(crate) fn dns() -> Self {
        Self { user: "system:coredns".to_owned(), groups: &[] }
    }

    pub(crate) fn kubelet(node: Node) -> Self {
        Self { user: format!("system:node:{}", node.name()), groups: &["system:nodes"] }
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// The identity's file, which names the server, the authority and the token.
    pub(crate) fn kubeconfig(&self, state: &State) -> PathBuf {
        if *self == Self::administrator() {
            return state.kubeconfig();
        }
        state.access().join(format!("{}.kubeconfig", self.user.replace(':', "-")))
    }

    /// A line of the API server's token file.
    fn token_line(&self, token: &str) -> String {
        format!("{token},{},{},\"{}\"\n", self.user, self.user, self.groups.join(","))
    }
}

/// Files of the folder `access`.
pub(crate) fn file(state: &State, name: &str) -> String {
    state.access().join(name).display().to_string()
}

/// Writes everything that proves who is who.
pub(crate) fn create(state: &State, nodes: impl Iterator<Item = Node> + Clone) -> Result<()> {
    let folder = state.access();
    let authority = Authority::new(&folder)?;
    let addresses = [plan::API_SERVICE, Node::FIRST.address(), Ipv4Addr::LOCALHOST];
    let names = API_NAMES.iter().map(|name| (*name).to_owned());
    let names = names.chain(addresses.iter().map(ToString::to_string)).collect();
    authority.sign("api-server", Subject::server("kube-apiserver"), names)?;
    let client =
        Subject { name: "kube-apiserver-kubelet-client", organization: Some("system:masters"), is_client: true };
    authority.sign("kubelet-client", client, Vec::new())?;
    for node in nodes.clone() {
        let name = node.name();
        authority.sign(&name, Subject::server(&name), vec![name.clone(), node.address().to_string()])?;
    }
    // Signs the tokens of service accounts, not certificates.
    let key = KeyPair::generate().context("cannot make a key")?;
    write_private(&folder.join("service-accounts.key"), &key.serialize_pem())?;
    write_private(&folder.join("service-accounts.pub"), &key.public_key_pem())?;

    let components = [
        Identity::administrator(),
        Identity::controller_manager(),
        Identity::scheduler(),
        Identity::proxy(),
        Identity::dns(),
    ];
    let mut tokens = String::new();
    for identity in components.into_iter().chain(nodes.map(Identity::kubelet)) {
        let token = random_token()?;
        tokens.push_str(&identity.token_line(&token));
        let config = kubeconfig(&identity, &token, &file(state, "ca.crt"));
        write_private(&identity.kubeconfig(state), &config)?;
    }
    write_private(&folder.join("tokens.csv"), &tokens)?;
    write_private(&folder.join(super::control_plane::AUDIT_POLICY), super::control_plane::AUDIT_POLICY_TEXT)
}

fn random_token() -> Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    let filled = SystemRandom::new().fill(&mut bytes);
    anyhow::ensure!(filled.is_ok(), "the kernel gives no random bytes");
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// JSON is YAML too.
fn kubeconfig(identity: &Identity, token: &str, authority: &str) -> String {
    let user = &identity.user;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": plan::NAME,
            "cluster": { "server": plan::api_address(), "certificate-authority": authority },
        }],
        "users": [{ "name": user, "user": { "token": token } }],
        "contexts": [{ "name": plan::NAME, "context": { "cluster": plan::NAME, "user": user } }],
        "current-context": plan::NAME,
    });
    format!("{config:#}\n")
}

fn write_private(file: &Path, content: &str) -> Result<()> {
    fs::write(file, content).with_context(|| format!("cannot write {}", file.display()))?;
    fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(())
}

struct Subject<'a> {
    name: &'a str,
    organization: Option<&'a str>,
    is_client: bool,
}

impl<'a> Subject<'a> {
    fn server(name: &'a str) -> Self {
        Self { name, organization: None, is_client: false }
    }
}

struct Authority<'a> {
    issuer: Issuer<'static, KeyPair>,
    folder: &'a Path,
}

impl<'a> Authority<'a> {
    /// Makes the authority; its key lives in memory only.
    fn new(folder: &'a Path) -> Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.distinguished_name.push(DnType::CommonName, plan::NAME);
        let key = KeyPair::generate().context("cannot make the authority's key")?;
        let certificate = parameters.self_signed(&key).context("cannot sign the authority's certificate")?;
        fs::write(folder.join("ca.crt"), certificate.pem()).context("cannot write the authority's certificate")?;
        Ok(Self { issuer: Issuer::new(parameters, key), folder })
    }

    /// Writes `file.crt` and `file.key`: a certificate for `names`, which are DNS names or addresses.
    fn sign(&self, file: &str, subject: Subject<'_>, names: Vec<String>) -> Result<()> {
        let mut parameters = CertificateParams::new(names).context("a name that no certificate can have")?;
        parameters.distinguished_name.push(DnType::CommonName, subject.name);
        if let Some(organization) = subject.organization {
            parameters.distinguished_name.push(DnType::OrganizationName, organization);
        }
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let usage =
            if subject.is_client { ExtendedKeyUsagePurpose::ClientAuth } else { ExtendedKeyUsagePurpose::ServerAuth };
        parameters.extended_key_usages = vec![usage];
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = parameters.signed_by(&key, &self.issuer).context("cannot sign a certificate")?;
        write_private(&self.folder.join(format!("{file}.crt")), &certificate.pem())?;
        write_private(&self.folder.join(format!("{file}.key")), &key.serialize_pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stand_beside_user_and_groups() {
        let line = Identity::kubelet(Node(2)).token_line("abc");
        assert_eq!(line, "abc,system:node:node-2,system:node:node-2,\"system:nodes\"\n");
        assert_eq!(Identity::proxy().token_line("abc"), "abc,system:kube-proxy,system:kube-proxy,\"\"\n");
    }

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let (one, other) = (random_token().expect("random bytes"), random_token().expect("random bytes"));
        assert_eq!(one.len(), 2 * TOKEN_BYTES);
        assert_ne!(one, other);
    }

    #[test]
    fn a_kubeconfig_names_server_authority_and_token() {
        let config: serde_json::Value =
            serde_json::from_str(&kubeconfig(&Identity::administrator(), "abc", "/a/ca.crt")).expect("it is JSON");
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://10.245.0.1:6443");
        assert_eq!(config["clusters"][0]["cluster"]["certificate-authority"], "/a/ca.crt");
        assert_eq!(config["users"][0]["user"]["token"], "abc");
        assert_eq!(config["contexts"][0]["context"]["user"], "admin");
    }
}
