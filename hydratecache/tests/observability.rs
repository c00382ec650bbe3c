//! Dashboard, alerts and documentation name the metrics that there are.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::path::PathBuf;

use hydratecache::metrics::{ALL, MetricKind, RUNG, STATE, SYSTEM, TOPIC};
use promql_parser::parser::{self, Expr, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every `expr` in a document, with the place where it stands.
fn expressions(document: &Value) -> Vec<(String, String)> {
    fn look(value: &Value, place: &str, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match (name.as_str(), value) {
                        ("expr", Value::String(expression)) => {
                            found.push((place.to_owned(), expression.clone()));
                        }
                        _ => look(value, &format!("{place}/{name}"), found),
                    }
                }
            }
            Value::Array(values) => {
                for (index, value) in values.iter().enumerate() {
                    look(value, &format!("{place}/{index}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    look(document, "", &mut found);
    found
}

/// What a `PromQL` expression reads.
#[derive(Default)]
struct Reads {
    series: BTreeSet<String>,
    labels: BTreeSet<String>,
}

impl Reads {
    fn of(expression: &str) -> Result<Self, String> {
        // Grafana puts a duration there.
        let expression = parser::parse(&expression.replace("$__rate_interval", "5m"))?;
        let mut reads = Self::default();
        let Ok(_) = walk_expr(&mut reads, &expression);
        Ok(reads)
    }

    fn select(&mut self, selector: &VectorSelector) {
        self.series.extend(selector.name.clone());
        let labels = selector.matchers.matchers.iter().map(|matcher| matcher.name.clone());
        self.labels.extend(labels);
    }

    /// What is wrong with it, if anything is.
    fn check(&self) -> Result<(), String> {
        for series in &self.series {
            if !is_exported(series) {
                return Err(format!("nothing is called {series}"));
            }
        }
        let known = [TOPIC, SYSTEM, RUNG, STATE, "le", "instance", "job"];
        match self.labels.iter().find(|label| !known.contains(&label.as_str())) {
            Some(label) => Err(format!("nothing has the label {label}")),
            None if self.series.is_empty() => Err("it reads nothing".to_owned()),
            None => Ok(()),
        }
    }
}

impl ExprVisitor for Reads {
    type Error = Infallible;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, Infallible> {
        match expression {
            Expr::VectorSelector(selector) => self.select(selector),
            Expr::MatrixSelector(selector) => self.select(&selector.vs),
            Expr::Aggregate(aggregate) => {
                let labels = aggregate.modifier.iter().flat_map(|by| by.labels().labels.clone());
                self.labels.extend(labels);
            }
            _ => {}
        }
        Ok(true)
    }
}

/// Whether an exporter for Prometheus has a series of this name. Of a histogram it has three.
fn is_exported(series: &str) -> bool {
    ALL.iter().any(|metric| match metric.kind {
        MetricKind::Histogram => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| series.strip_suffix(suffix) == Some(metric.name)),
        _ => series == metric.name,
    })
}

fn check(document: &Value) -> Vec<String> {
    let wrong = |(place, expression): &(String, String)| {
        let why = Reads::of(expression).and_then(|reads| reads.check()).err()?;
        Some(format!("{place}: {why}, in {expression}"))
    };
    expressions(document).iter().filter_map(wrong).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/observability/grafana/dashboard.json")).expect("JSON")
}

fn alerts() -> Value {
    serde_saphyr::from_str(&read("deploy/observability/alerts.yml")).expect("YAML")
}

#[test]
fn every_expression_of_the_dashboard_reads_metrics_that_there_are() {
    let dashboard = dashboard();
    assert!(expressions(&dashboard).len() > 30);
    assert_eq!(check(&dashboard), Vec::<String>::new());
}

#[test]
fn every_alert_reads_metrics_that_there_are_and_says_what_is_wrong() {
    let alerts = alerts();
    assert_eq!(check(&alerts), Vec::<String>::new());
    let rules = alerts["groups"][0]["rules"].as_array().expect("rules");
    assert_eq!(rules.len(), expressions(&alerts).len());
    let names: BTreeSet<_> = rules.iter().map(|rule| rule["alert"].as_str()).collect();
    assert_eq!(names.len(), rules.len());
    for rule in rules {
        assert!(rule["annotations"]["summary"].is_string(), "{rule}");
        assert!(rule["labels"]["severity"].is_string(), "{rule}");
    }
}

#[test]
fn a_wrong_expression_is_found() {
    for (expression, why) in [
        ("rate(hydratecache_gap_total[5m])", "nothing is called hydratecache_gap_total"),
        ("hydratecache_fence_seconds", "nothing is called hydratecache_fence_seconds"),
        ("hydratecache_gaps_total_sum", "nothing is called"),
        ("sum by (key) (hydratecache_gaps_total)", "the label key"),
        ("hydratecache_gaps_total{origin=\"1\"}", "the label origin"),
        ("1", "it reads nothing"),
        ("rate(hydratecache_gaps_total[5m]", ""),
    ] {
        let document = serde_json::json!({ "expr": expression });
        let wrong = check(&document);
        assert!(wrong.len() == 1 && wrong[0].contains(why), "{expression}: {wrong:?}");
    }
}

#[test]
fn panels_of_the_dashboard_have_a_place_and_read_the_chosen_source_of_data() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |side: &str| panel["gridPos"][side].as_u64().expect("a place");
        assert!(at("x") + at("w") <= 24, "{panel}");
        for row in at("y")..at("y") + at("h") {
            for column in at("x")..at("x") + at("w") {
                assert!(taken.insert((row, column)), "{} lies on another panel", panel["title"]);
            }
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{panel}");
        }
    }
}

#[test]
fn the_documentation_lists_every_metric_and_no_other() {
    let page = read("docs/OBSERVABILITY.md");
    let documented: BTreeSet<_> =
        page.lines().filter(|line| line.starts_with("| `hydratecache_")).collect();
    let line = |kind: MetricKind| match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        _ => "histogram",
    };
    let lines: Vec<String> = ALL
        .iter()
        .map(|metric| format!("| `{}` | {} | {} |", metric.name, line(metric.kind), metric.help))
        .collect();
    let there: BTreeSet<_> = lines.iter().map(String::as_str).collect();
    let unlisted: Vec<_> = there.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&there).collect();
    assert!(unlisted.is_empty() && unknown.is_empty(), "add {unlisted:#?}, remove {unknown:#?}");
}

#[test]
fn the_profile_of_docker_compose_mounts_what_is_here() {
    let compose: Value = serde_saphyr::from_str(&read("docker-compose.yml")).expect("YAML");
    for service in ["prometheus", "grafana"] {
        let service = &compose["services"][service];
        assert_eq!(service["profiles"][0], "observability");
        let mounts = service["volumes"].as_array().expect("mounts");
        assert!(!mounts.is_empty());
        for mount in mounts {
            let source = mount.as_str().and_then(|mount| mount.split(':').next());
            assert!(!read(source.expect("a path")).is_empty());
        }
    }
    for file in ["prometheus.yml", "grafana/datasource.yml", "grafana/dashboards.yml"] {
        let file = read(&format!("deploy/observability/{file}"));
        let _: Value = serde_saphyr::from_str(&file).expect("YAML");
    }
}
