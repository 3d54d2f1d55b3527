// jetcd, the client for Java: put, txn, watch, lease, lock, election; with a CA, a user and a password all of it over TLS,
// and what is denied as well.

import static java.nio.charset.StandardCharsets.UTF_8;

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.ClientBuilder;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.Lease;
import io.etcd.jetcd.Lock;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.support.CloseableClient;
import io.etcd.jetcd.support.Observers;
import io.etcd.jetcd.watch.WatchEvent;
import java.io.File;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

public final class Main {
  private static final int WAIT_S = 20;

  public static void main(String[] words) throws Exception {
    boolean asUser = words.length > 1;
    try (Client etcd = client(words, asUser ? words[3] : "")) {
      puts(etcd.getKVClient());
      txns(etcd.getKVClient());
      watches(etcd);
      leases(etcd);
      locks(etcd);
      elections(etcd);
      if (asUser) {
        denials(etcd.getKVClient());
        try (Client stranger = client(words, "wrong")) {
          String refusal = refusal(stranger.getKVClient().get(bytes("app/jv/a")));
          check(refusal.contains("UNAUTHENTICATED"), refusal); // all that it passes on of a failed login
        }
        System.out.println("auth");
      }
    }
    System.exit(0);
  }

  private static Client client(String[] words, String password) throws Exception {
    if (words.length == 1) {
      return Client.builder().endpoints("http://" + words[0]).build();
    }
    ClientBuilder builder = Client.builder().endpoints("https://" + words[0]);
    builder.sslContext(context -> context.trustManager(new File(words[1])));
    return builder.user(bytes(words[2])).password(bytes(password)).build();
  }

  private static void puts(KV kv) throws Exception {
    await(kv.put(bytes("app/jv/a"), bytes("1")));
    await(kv.put(bytes("app/jv/b"), ByteSequence.from(new byte[] {0, (byte) 255})));
    GetOption sorted = GetOption.builder().isPrefix(true).withSortOrder(GetOption.SortOrder.DESCEND)
        .withSortField(GetOption.SortTarget.KEY).build();
    GetResponse found = await(kv.get(bytes("app/jv/"), sorted));
    check(found.getKvs().stream().map(pair -> pair.getKey().toString()).toList()
        .equals(List.of("app/jv/b", "app/jv/a")), "sorted " + found);
    check(found.getKvs().get(0).getValue().getBytes()[1] == (byte) 255, "bytes");
    System.out.println("put");
  }

  private static void txns(KV kv) throws Exception {
    TxnResponse done = await(kv.txn()
        .If(new Cmp(bytes("app/jv/a"), Cmp.Op.EQUAL, CmpTarget.value(bytes("1"))))
        .Then(Op.put(bytes("app/jv/a"), bytes("2"), PutOption.DEFAULT), Op.get(bytes("app/jv/a"), GetOption.DEFAULT))
        .Else(Op.delete(bytes("app/jv/a"), DeleteOption.DEFAULT))
        .commit());
    check(done.isSucceeded(), "the txn succeeds");
    check(done.getGetResponses().get(0).getKvs().get(0).getValue().toString().equals("2"), "a get sees the put before it");
    System.out.println("txn");
  }

  private static void watches(Client etcd) throws Exception {
    BlockingQueue<String> heard = new LinkedBlockingQueue<>();
    KV kv = etcd.getKVClient();
    long first = await(kv.put(bytes("app/jv/w/0"), bytes("x"))).getHeader().getRevision();
    WatchOption option = WatchOption.builder().isPrefix(true).withRevision(first).withPrevKV(true).build();
    try (Watch.Watcher watcher = etcd.getWatchClient().watch(bytes("app/jv/w/"), option, Watch.listener(
        response -> response.getEvents().forEach(event -> heard.add(told(event))),
        error -> heard.add(error.toString())))) {
      await(kv.put(bytes("app/jv/w/0"), bytes("y")));
      await(kv.delete(bytes("app/jv/w/0")));
      for (String expected : List.of("PUT x<", "PUT y<x", "DELETE <y")) {
        String event = heard.poll(WAIT_S, TimeUnit.SECONDS);
        check(expected.equals(event), event + " instead of " + expected);
      }
    }
    System.out.println("watch");
  }

  private static String told(WatchEvent event) {
    KeyValue before = event.getPrevKV();
    return event.getEventType() + " " + event.getKeyValue().getValue() + "<" + before.getValue();
  }

  private static void leases(Client etcd) throws Exception {
    Lease leases = etcd.getLeaseClient();
    KV kv = etcd.getKVClient();
    long lease = await(leases.grant(60)).getID();
    await(kv.put(bytes("app/jv/leased"), bytes("1"), PutOption.builder().withLeaseId(lease).build()));
    BlockingQueue<LeaseKeepAliveResponse> alive = new LinkedBlockingQueue<>();
    try (CloseableClient keeper = leases.keepAlive(lease, Observers.observer(alive::add))) {
      LeaseKeepAliveResponse kept = alive.poll(WAIT_S, TimeUnit.SECONDS);
      check(kept != null && kept.getTTL() == 60, "kept alive: " + kept);
    }
    List<ByteSequence> keys = await(leases.timeToLive(lease, LeaseOption.builder().withAttachedKeys().build())).getKeys();
    check(keys.equals(List.of(bytes("app/jv/leased"))), "the attached key");
    await(leases.revoke(lease));
    check(await(kv.get(bytes("app/jv/leased"))).getCount() == 0, "the key went with its lease");
    System.out.println("lease");
  }

  private static void locks(Client etcd) throws Exception {
    Lock locks = etcd.getLockClient();
    long mine = await(etcd.getLeaseClient().grant(60)).getID();
    long rivals = await(etcd.getLeaseClient().grant(60)).getID();
    ByteSequence key = await(locks.lock(bytes("app/jv/lock"), mine)).getKey();
    check(await(etcd.getKVClient().get(key)).getCount() == 1, "the lock has a key");
    CompletableFuture<ByteSequence> waits = locks.lock(bytes("app/jv/lock"), rivals).thenApply(got -> got.getKey());
    check(!waits.isDone(), "the lock is taken");
    await(locks.unlock(key));
    await(locks.unlock(await(waits)));
    System.out.println("lock");
  }

  private static void elections(Client etcd) throws Exception {
    Election elections = etcd.getElectionClient();
    long lease = await(etcd.getLeaseClient().grant(60)).getID();
    var won = await(elections.campaign(bytes("app/jv/election"), lease, bytes("me")));
    KeyValue leader = await(elections.leader(bytes("app/jv/election"))).getKv();
    check(leader.getValue().toString().equals("me"), "who leads");
    await(elections.resign(won.getLeader()));
    System.out.println("election");
  }

  private static void denials(KV kv) throws Exception {
    for (CompletableFuture<?> denied : List.of(
        kv.put(bytes("secret"), bytes("1")), kv.get(bytes("secret")), kv.delete(bytes("secret")))) {
      String refusal = refusal(denied);
      check(refusal.endsWith("PERMISSION_DENIED: etcdserver: permission denied"), refusal);
    }
  }

  private static String refusal(CompletableFuture<?> call) throws Exception {
    try {
      await(call);
      return "not refused";
    } catch (ExecutionException failure) {
      return String.valueOf(failure.getCause());
    }
  }

  private static <T> T await(CompletableFuture<T> call) throws Exception {
    return call.get(WAIT_S, TimeUnit.SECONDS);
  }

  private static ByteSequence bytes(String text) {
    return ByteSequence.from(text, UTF_8);
  }

  private static void check(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError("not so: " + what);
    }
  }
}
