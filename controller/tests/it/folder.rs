//! Trouble with the folder takes nothing away.

use crate::support::{ADDRESSES, Controller, POLICIES, SHOP, Scratch};
use std::fs;

async fn revision(controller: &Controller, wanted: u64) {
    controller
        .until(async |controller: &Controller| controller.status().await["revision"].as_u64() >= Some(wanted))
        .await;
}

async fn mistakes(controller: &Controller) -> String {
    controller.status().await["mistakes"].to_string()
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_version() {
    let scratch = Scratch::new();
    scratch.write("shop.yaml", SHOP);
    let controller = Controller::start(&scratch).await;
    let mut client = controller.connect("client").await;
    client.wildcard(ADDRESSES, &[]).await;
    client.take().await;
    for (at, broken) in ["apiVersion: v1\nkind: [", "", "\u{0}", "apiVersion: v1\nkind: Pod\nmetadata: {name: 7}\n"]
        .into_iter()
        .enumerate()
    {
        fs::write(scratch.manifests().join("shop.yaml"), broken).expect("a written file");
        revision(&controller, 2 + at as u64).await;
        assert!(mistakes(&controller).await.contains("last good version"), "{}", mistakes(&controller).await);
        client.silence().await;
    }
    scratch.write("shop.yaml", &SHOP.replace("10.0.0.7", "10.0.0.17"));
    assert_eq!(client.take().await.0, ["Kubernetes//Pod/shop/web"]);
    assert_eq!(mistakes(&controller).await, "[]");
}

#[tokio::test]
async fn an_emptied_or_missing_folder_keeps_everything() {
    let scratch = Scratch::new();
    scratch.write("shop.yaml", SHOP);
    let controller = Controller::start(&scratch).await;
    let mut client = controller.connect("client").await;
    client.wildcard(ADDRESSES, &[]).await;
    client.take().await;
    scratch.remove("shop.yaml");
    revision(&controller, 2).await;
    assert!(mistakes(&controller).await.contains("stays in force"));
    client.silence().await;
    fs::remove_dir(scratch.manifests()).expect("a removed folder");
    revision(&controller, 3).await;
    assert!(mistakes(&controller).await.contains("cannot be read"));
    client.silence().await;
    fs::create_dir(scratch.manifests()).expect("a folder");
    scratch.write("shop.yaml", &SHOP.replace("10.0.0.7", "10.0.0.17"));
    assert_eq!(client.take().await.0, ["Kubernetes//Pod/shop/web"]);
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_is_not_taken_for_none() {
    let scratch = Scratch::new();
    scratch.write("shop.yaml", SHOP);
    let policy = "apiVersion: heddle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  action: ";
    scratch.write("policy.yaml", &format!("{policy}Refuse\n"));
    let controller = Controller::start(&scratch).await;
    revision(&controller, 1).await;
    let answer = controller.get("/healthz/ready").await;
    assert!(answer.contains("503") && answer.contains("may be a policy"), "{answer}");
    scratch.write("policy.yaml", &format!("{policy}Deny\n"));
    let mut client = controller.connect("client").await;
    client.wildcard(POLICIES, &[]).await;
    assert_eq!(client.take().await.0, ["shop/heddle_strict_all", "shop/p"]);
}

#[tokio::test]
async fn an_empty_folder_is_served_at_first_and_never_after_a_full_one() {
    let scratch = Scratch::new();
    let controller = Controller::start(&scratch).await;
    let mut client = controller.connect("client").await;
    client.wildcard(ADDRESSES, &[]).await;
    assert_eq!(client.take().await, (vec![], vec![]));
    scratch.write("shop.yaml", SHOP);
    assert_eq!(client.take().await.0.len(), 3);
    controller.end().await;
    scratch.remove("shop.yaml");
    let controller = Controller::start(&scratch).await;
    revision(&controller, 1).await;
    assert!(controller.get("/healthz/ready").await.contains("503"));
    scratch.write("shop.yaml", SHOP);
    controller.connect("client").await;
}
