//! status and doctor on a server where no operator runs, as an administrator and as somebody with few rights.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::api_server::{World, run};

#[tokio::test]
async fn without_an_operator_doctor_says_so_and_ends_with_1() {
    let Some(world) = World::new("plugin-doctor").await else { return };
    world.apply("gitops", json!({})).await;
    let status = json!({ "status": { "files": 7, "size": "1Gi", "conditions": [{
        "type": "Ready", "status": "False", "reason": "SecretMissing", "message": "the Secret `s3` isn't there", "lastTransitionTime": "2026-01-01T00:00:00Z"
    }] } });
    world.datasets().patch_status("t", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &world.namespace);
    let reader = json!({ "metadata": { "name": "reader" }, "spec": {
        "schedulingGates": [{ "name": "forebay.dev/warm" }],
        "containers": [{ "name": "c", "image": "fake" }],
        "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "t" } }]
    } });
    pods.create(&PostParams::default(), &serde_json::from_value(reader).unwrap()).await.unwrap();

    let ran = world.run("doctor t").await;
    for words in
        ["FAIL the operator: there is no pod of it", "FAIL dataset/t: the Secret `s3` isn't there", "WARN pvc/t", "note pod/reader"]
    {
        assert!(ran.out.contains(words), "{words}: {ran:?}");
    }
    assert_eq!(ran.code, 1, "{ran:?}");
    let json: Value = serde_json::from_str(&world.run("doctor -o json").await.out).unwrap();
    assert_eq!((&json["reports"][1]["about"], &json["notSeen"]), (&json!("plugin-doctor/t"), &json!([])));
    let none = world.run("doctor absent").await;
    assert!(none.code == 1 && none.out.contains("it isn't there in the namespace plugin-doctor"), "{none:?}");

    let ran = world.run("status t").await;
    assert!(
        ran.code == 0 && ran.out.contains("SecretMissing") && ran.out.contains("there are no cache nodes in forebay-system"),
        "{ran:?}"
    );
    let json: Value = serde_json::from_str(&world.run("status -o json").await.out).unwrap();
    assert_eq!((&json[0]["files"], &json[0]["size"]), (&json!(7), &json!("1Gi")));
    assert_eq!(world.run("status absent").await.code, 66);
}

#[tokio::test]
async fn who_may_see_only_datasets_sees_them_and_is_told_what_is_not_seen() {
    let Some(world) = World::new("plugin-rights").await else { return };
    world.apply("gitops", json!({})).await;
    let rights = json!([{ "apiGroups": ["forebay.dev"], "resources": ["datasets"], "verbs": ["get", "list"] }]);
    let kubeconfig = world.somebody(rights).await;
    let status = run(kubeconfig.clone(), &world.namespace, "status t").await;
    assert!(
        status.code == 0 && status.out.contains("the nodes were not asked: list the pods of forebay-system: you may not"),
        "{status:?}"
    );
    let doctor = run(kubeconfig.clone(), &world.namespace, "doctor t").await;
    for words in ["not seen: list nodes: you may not", "not seen: list the pods of plugin-rights: you may not"] {
        assert!(doctor.out.contains(words), "{words}: {doctor:?}");
    }
    let pin = run(kubeconfig.clone(), &world.namespace, "pin t /a").await;
    assert!(pin.code == 77 && pin.err.contains("docs/plugin.md"), "{pin:?}");
    std::fs::remove_file(kubeconfig).unwrap();
}

#[tokio::test]
async fn without_a_cluster_it_says_how_to_name_one() {
    let ran = run("/nowhere/kubeconfig".into(), "default", "status").await;
    assert!(ran.code == 64 && ran.err.contains("--kubeconfig"), "{ran:?}");
}
