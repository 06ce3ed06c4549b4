//! What the controller counts, in the Prometheus text format.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The counters and gauges. No label takes its value from a client.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open discovery streams.
    pub streams: Gauge,
    pushes: Family<TypeLabel, Counter>,
    nacks: Family<TypeLabel, Counter>,
    /// Certificates that were signed.
    pub certificates: Counter,
    /// Callers whose token was refused.
    pub refused_callers: Counter,
    /// Mistakes in the manifests as they are now.
    pub mistakes: Gauge,
    /// The newest translated revision.
    pub revision: Gauge,
    /// Workloads in it.
    pub workloads: Gauge,
    /// Services in it.
    pub services: Gauge,
    /// Policies in it.
    pub policies: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("heddle_controller"),
            streams: Gauge::default(),
            pushes: Family::default(),
            nacks: Family::default(),
            certificates: Counter::default(),
            refused_callers: Counter::default(),
            mistakes: Gauge::default(),
            revision: Gauge::default(),
            workloads: Gauge::default(),
            services: Gauge::default(),
            policies: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("streams", "Open discovery streams", metrics.streams.clone());
        registry.register("pushes", "Discovery responses sent", metrics.pushes.clone());
        registry.register("nacks", "Discovery responses that a proxy refused", metrics.nacks.clone());
        registry.register("certificates_issued", "Workload certificates signed", metrics.certificates.clone());
        registry.register("refused_callers", "Calls without a valid token", metrics.refused_callers.clone());
        registry.register("manifest_mistakes", "Mistakes in the manifests", metrics.mistakes.clone());
        registry.register("config_revision", "Newest translated revision of the manifests", metrics.revision.clone());
        registry.register("workloads", "Workloads in the newest revision", metrics.workloads.clone());
        registry.register("services", "Services in the newest revision", metrics.services.clone());
        registry.register("policies", "Policies in the newest revision", metrics.policies.clone());
        metrics
    }
}

impl Metrics {
    /// Responses sent of one of our types; anything else counts as `other`.
    pub fn pushes(&self, type_url: &str) -> Counter {
        self.pushes.get_or_create(&TypeLabel { r#type: label(type_url) }).clone()
    }

    /// Responses of a type that were refused.
    pub fn nacks(&self, type_url: &str) -> Counter {
        self.nacks.get_or_create(&TypeLabel { r#type: label(type_url) }).clone()
    }

    /// All of them as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn label(type_url: &str) -> String {
    use heddle_proto::names::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
    let known = [ADDRESS_TYPE, AUTHORIZATION_TYPE].contains(&type_url);
    if known { type_url.rsplit('/').next().unwrap_or("other").to_owned() } else { "other".to_owned() }
}
