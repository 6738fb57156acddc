//! `metrics`, as a collector reads it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::{fails, str, vmlockctl};
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::Fixture;

/// Parses a file with Prometheus's own reader of a format: by the names of metrics, their types and
/// samples.
async fn read(fixture: &Fixture, module: &str, path: &str) -> Value {
    let script = format!(
        "import json, sys\n\
         from {module} import text_string_to_metric_families as read\n\
         told = {{}}\n\
         for family in read(open(sys.argv[1]).read()):\n\
        \x20   samples = [[s.name, s.labels, float(s.value)] for s in family.samples]\n\
        \x20   told[family.name] = [family.type, family.unit, family.documentation, samples]\n\
         print(json.dumps(told))\n"
    );
    // The distribution's, whose package has the module.
    let said = fixture.run("/usr/bin/python3", &["-c", &script, path]).await.ok();
    serde_json::from_str(&said).unwrap()
}

#[tokio::test]
async fn metrics_are_printed_as_text_and_as_json() {
    let fixture = Fixture::builder().start().await;
    let text = vmlockctl(&fixture, &["metrics"]).await.ok();
    assert!(text.starts_with("# TYPE vmlockd_build_info gauge\n"), "{text}");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let printed = vmlockctl(&fixture, &["metrics", "--output", "-"]).await.ok();
    assert!(printed.ends_with("\n# EOF\n"), "{printed}");
    let told = super::json(&fixture, &["metrics"]).await;
    assert_eq!(told["locks-granted"], 0);
    assert_eq!(told["wait-count"], 0);
    // Larger numbers are rounded where all numbers are floating-point numbers.
    let last = told["wait-usec"].as_array().unwrap().last().unwrap();
    assert!(last[0].as_u64().unwrap() < 1 << 53, "{last}");
}

/// The parser of Prometheus, a package of the distribution.
mod host {
    use super::*;

    #[tokio::test]
    async fn prometheus_reads_what_happened() {
        let fixture = Fixture::builder().start().await;
        let (image, bus) = (fixture.raw_of(0, "a"), fixture.connection().await);
        let web1 = TestVm::open(&bus, "web1").await;
        web1.acquire(&[exclusive(&image)]).await.unwrap();
        let path = fixture.dir().join("vmlockd.prom");
        let path = str(&path);
        fs::write(path, "what was there before").unwrap();
        let said = vmlockctl(&fixture, &["metrics", "--output", path]).await.ok();
        assert_eq!(said, "");
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o644);

        let told = read(&fixture, "prometheus_client.openmetrics.parser", path).await;
        let version = json!({ "version": env!("CARGO_PKG_VERSION") });
        let samples = |name: &str| &told[format!("vmlockd_{name}")][3];
        assert_eq!(samples("build_info"), &json!([["vmlockd_build_info", version, 1.0]]));
        assert_eq!(samples("owners"), &json!([["vmlockd_owners", {}, 1.0]]));
        let granted = json!([["vmlockd_locks_granted_total", {}, 1.0]]);
        assert_eq!(samples("locks_granted"), &granted);
        assert_eq!(
            samples("requests_refused"),
            &json!([["vmlockd_requests_refused_total", {}, 0.0]])
        );
        let grants = &told["vmlockd_grant_seconds"];
        assert_eq!((&grants[0], &grants[1]), (&json!("histogram"), &json!("seconds")));
        let bound = |bound: &str, count: f64| json!(["vmlockd_grant_seconds_bucket", { "le": bound }, count]);
        let buckets = grants[3].as_array().unwrap();
        assert!(buckets.contains(&bound("10.0", 1.0)) && buckets.contains(&bound("+Inf", 1.0)));
        assert!(buckets.contains(&json!(["vmlockd_grant_seconds_count", {}, 1.0])), "{grants:#}");
        let since = samples("start_time_seconds")[0][2].as_f64().unwrap();
        assert!(since > 1.7e9, "{since}");
        for (name, metric) in told.as_object().unwrap() {
            assert!(metric[2].as_str().is_some_and(|help| help.ends_with('.')), "{name}");
        }

        // A reader of the older format, such as those of node exporters, parses it too.
        let older = read(&fixture, "prometheus_client.parser", path).await;
        assert_eq!(older["vmlockd_grant_seconds"][0], "histogram");
        let total = |told: &Value| {
            let all = told.as_object().unwrap().values();
            let mut samples = all.flat_map(|metric| metric[3].as_array().unwrap());
            samples.any(|sample| *sample == granted[0])
        };
        assert!(total(&older), "{older:#}");

        // Nothing is left beside it, and nothing is written where it can't be.
        let beside = fs::read_dir(fixture.dir()).unwrap();
        let names = beside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(
            names.filter(|name| name.contains("prom")).collect::<Vec<_>>(),
            ["vmlockd.prom"]
        );
        let nowhere = fixture.dir().join("nowhere/vmlockd.prom");
        let said = fails(&fixture, 1, &["metrics", "--output", str(&nowhere)]).await;
        assert!(said.contains(str(&nowhere)) && said.contains("No such file"), "{said}");
    }
}
