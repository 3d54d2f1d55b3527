// etcd-client, the client for Rust: put, txn, watch, lease, lock and election by the services of the server; with a CA, a
// user and a password all of it over TLS, and what is denied as well.
use etcd_client::*;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut etcd = match &words[..] {
        [address, ca_file, user, password] => as_user(address, ca_file, user, password).await?,
        words => Client::connect([&words[0]], None).await?,
    };

    etcd.put("app/rs/a", "1", None).await?;
    etcd.put("app/rs/b", vec![0u8, 255], None).await?;
    let got = etcd.get("app/rs/", Some(GetOptions::new().with_prefix())).await?;
    assert_eq!(got.kvs().iter().map(|pair| pair.key_str().unwrap()).collect::<Vec<_>>(), ["app/rs/a", "app/rs/b"]);
    println!("put");

    let txn = Txn::new()
        .when([Compare::value("app/rs/a", CompareOp::Equal, "1")])
        .and_then([TxnOp::put("app/rs/a", "2", None), TxnOp::get("app/rs/a", None)])
        .or_else([TxnOp::delete("app/rs/a", None)]);
    assert!(etcd.txn(txn).await?.succeeded());
    assert_eq!(etcd.get("app/rs/a", None).await?.kvs()[0].value(), b"2");
    println!("txn");

    let mut stream = etcd.watch("app/rs/w", Some(WatchOptions::new().with_prev_key())).await?;
    etcd.put("app/rs/w", "x", None).await?;
    etcd.put("app/rs/w", "y", None).await?;
    etcd.delete("app/rs/w", None).await?;
    let mut heard = vec![];
    while heard.len() < 3 {
        let response = stream.message().await?.expect("the stream goes on");
        for event in response.events() {
            let before = event.prev_kv().map_or("", |pair| pair.value_str().unwrap());
            heard.push(format!("{:?}<{}", event.event_type(), before));
        }
    }
    assert_eq!(heard, ["Put<", "Put<x", "Delete<y"]);
    println!("watch");

    let lease = etcd.lease_grant(60, None).await?.id();
    etcd.put("app/rs/leased", "1", Some(PutOptions::new().with_lease(lease))).await?;
    let (mut keeper, mut alive) = etcd.lease_keep_alive(lease).await?;
    keeper.keep_alive().await?;
    assert_eq!(alive.message().await?.expect("an answer").ttl(), 60);
    etcd.lease_revoke(lease).await?;
    assert_eq!(etcd.get("app/rs/leased", None).await?.count(), 0);
    println!("lease");

    let lease = etcd.lease_grant(60, None).await?.id();
    let lock = etcd.lock("app/rs/lock", Some(LockOptions::new().with_lease(lease))).await?;
    assert_eq!(etcd.get(lock.key(), None).await?.count(), 1);
    etcd.unlock(lock.key()).await?;
    println!("lock");

    let won = etcd.campaign("app/rs/election", "me", lease).await?;
    let leader = etcd.leader("app/rs/election").await?;
    assert_eq!(leader.kv().expect("somebody leads").value(), b"me");
    etcd.resign(Some(ResignOptions::new().with_leader(won.leader().expect("a key").clone()))).await?;
    println!("election");

    if let [address, ca_file, user, _] = &words[..] {
        let denied = "etcdserver: permission denied";
        assert_eq!(refusal(etcd.put("secret", "1", None).await), denied);
        assert_eq!(refusal(etcd.get("secret", None).await), denied);
        assert_eq!(refusal(etcd.delete("secret", None).await), denied);
        let stranger = as_user(address, ca_file, user, "wrong").await;
        assert_eq!(refusal(stranger), "etcdserver: authentication failed, invalid user ID or password");
        println!("auth");
    }
    Ok(())
}

async fn as_user(address: &str, ca_file: &str, user: &str, password: &str) -> Result<Client, Error> {
    let authority = Certificate::from_pem(std::fs::read(ca_file)?);
    let options = ConnectOptions::new()
        .with_tls(TlsOptions::new().ca_certificate(authority))
        .with_user(user, password);
    Client::connect([format!("https://{address}")], Some(options)).await
}

fn refusal<T>(answer: Result<T, Error>) -> String {
    match answer {
        Ok(_) => "not refused".into(),
        Err(Error::GRpcStatus(status)) => status.message().into(),
        Err(error) => error.to_string(),
    }
}
