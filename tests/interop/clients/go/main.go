// The official Go client and its concurrency package: put, txn, watch, lease, lock, election, STM; with a CA, a user
// and a password all of it over TLS, and what is denied as well.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func must(err error) {
	if err != nil {
		log.Fatalln(err)
	}
}

func check(holds bool, what string) {
	if !holds {
		log.Fatalln("not so:", what)
	}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	config := clientv3.Config{Endpoints: []string{os.Args[1]}, DialTimeout: 20 * time.Second}
	if len(os.Args) > 2 {
		authority, err := os.ReadFile(os.Args[2])
		must(err)
		config.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
		check(config.TLS.RootCAs.AppendCertsFromPEM(authority), "a CA")
		config.Username, config.Password = os.Args[3], os.Args[4]
	}
	etcd, err := clientv3.New(config)
	must(err)
	defer etcd.Close()

	puts(ctx, etcd)
	txns(ctx, etcd)
	watches(ctx, etcd)
	leases(ctx, etcd)
	recipes(ctx, etcd)
	if config.Username != "" {
		denials(ctx, etcd, config)
	}
}

func denials(ctx context.Context, etcd *clientv3.Client, config clientv3.Config) {
	_, err := etcd.Put(ctx, "secret", "1")
	check(errors.Is(err, rpctypes.ErrPermissionDenied), fmt.Sprint("a denied put: ", err))
	_, err = etcd.Get(ctx, "app", clientv3.WithPrefix())
	check(errors.Is(err, rpctypes.ErrPermissionDenied), fmt.Sprint("a denied get: ", err))
	_, err = etcd.UserList(ctx)
	check(errors.Is(err, rpctypes.ErrPermissionDenied), fmt.Sprint("a denied list of users: ", err))
	watch := <-etcd.Watch(ctx, "secret")
	check(watch.Canceled && strings.Contains(watch.Err().Error(), rpctypes.ErrPermissionDenied.Error()), fmt.Sprint("a denied watch: ", watch.Err()))
	config.Password = "wrong"
	_, err = clientv3.New(config)
	check(errors.Is(err, rpctypes.ErrAuthFailed), fmt.Sprint("a wrong password: ", err))
	fmt.Println("auth")
}

func puts(ctx context.Context, etcd *clientv3.Client) {
	for i := 0; i < 30; i++ {
		_, err := etcd.Put(ctx, fmt.Sprintf("app/go/a/%02d", i), strconv.Itoa(i))
		must(err)
	}
	got, err := etcd.Get(ctx, "app/go/a/", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(2))
	must(err)
	check(len(got.Kvs) == 2 && string(got.Kvs[0].Key) == "app/go/a/29" && got.More && got.Count == 30, "a sorted page")
	status, err := etcd.Status(ctx, os.Args[1])
	must(err)
	check(status.Version != "", "a version")
	fmt.Println("put")
}

func txns(ctx context.Context, etcd *clientv3.Client) {
	done, err := etcd.Txn(ctx).
		If(clientv3.Compare(clientv3.Value("app/go/a/01"), "=", "1"), clientv3.Compare(clientv3.CreateRevision("app/go/none"), "=", 0)).
		Then(clientv3.OpPut("app/go/a/01", "one"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("app/go/a/01")}, nil)).
		Else(clientv3.OpDelete("app/go/a/01")).Commit()
	must(err)
	check(done.Succeeded, "the txn succeeds")
	inner := done.Responses[1].GetResponseTxn().Responses[0].GetResponseRange()
	check(string(inner.Kvs[0].Value) == "one", "a nested get sees the put before it")
	fmt.Println("txn")
}

func watches(ctx context.Context, etcd *clientv3.Client) {
	first, err := etcd.Put(ctx, "app/go/w/0", "x")
	must(err)
	watching, stop := context.WithCancel(ctx)
	events := etcd.Watch(watching, "app/go/w/", clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision), clientv3.WithPrevKV())
	_, err = etcd.Put(ctx, "app/go/w/0", "y")
	must(err)
	_, err = etcd.Delete(ctx, "app/go/w/0")
	must(err)
	var heard []string
	for len(heard) < 3 {
		response := <-events
		must(response.Err())
		for _, event := range response.Events {
			previous := ""
			if event.PrevKv != nil {
				previous = string(event.PrevKv.Value)
			}
			heard = append(heard, fmt.Sprintf("%s %s<%s", event.Type, event.Kv.Value, previous))
		}
	}
	check(fmt.Sprint(heard) == "[PUT x< PUT y<x DELETE <y]", fmt.Sprint(heard))
	stop()
	for range events {
	}
	fmt.Println("watch")
}

func leases(ctx context.Context, etcd *clientv3.Client) {
	lease, err := etcd.Grant(ctx, 60)
	must(err)
	_, err = etcd.Put(ctx, "app/go/leased", "1", clientv3.WithLease(lease.ID))
	must(err)
	alive, err := etcd.KeepAlive(ctx, lease.ID)
	must(err)
	check((<-alive).TTL == 60, "kept alive")
	left, err := etcd.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	must(err)
	check(len(left.Keys) == 1 && string(left.Keys[0]) == "app/go/leased", "the attached key")
	_, err = etcd.Revoke(ctx, lease.ID)
	must(err)
	gone, err := etcd.Get(ctx, "app/go/leased")
	must(err)
	check(gone.Count == 0, "the key went with its lease")
	fmt.Println("lease")
}

func recipes(ctx context.Context, etcd *clientv3.Client) {
	session, err := concurrency.NewSession(etcd, concurrency.WithTTL(30))
	must(err)
	defer session.Close()
	other, err := concurrency.NewSession(etcd, concurrency.WithTTL(30))
	must(err)
	defer other.Close()

	mutex, rival := concurrency.NewMutex(session, "app/go/lock"), concurrency.NewMutex(other, "app/go/lock")
	must(mutex.Lock(ctx))
	check(rival.TryLock(ctx) == concurrency.ErrLocked, "the lock is taken")
	waits := make(chan error)
	go func() { waits <- rival.Lock(ctx) }()
	must(mutex.Unlock(ctx))
	must(<-waits)
	must(rival.Unlock(ctx))
	fmt.Println("lock")

	election := concurrency.NewElection(session, "app/go/election")
	must(election.Campaign(ctx, "me"))
	leader, err := concurrency.NewElection(other, "app/go/election").Leader(ctx)
	must(err)
	check(string(leader.Kvs[0].Value) == "me", "who leads")
	must(election.Resign(ctx))
	fmt.Println("election")

	done := make(chan error)
	for i := 0; i < 4; i++ {
		go func() {
			for n := 0; n < 5; n++ {
				if _, err := concurrency.NewSTM(etcd, func(stm concurrency.STM) error {
					count, _ := strconv.Atoi(stm.Get("app/go/count"))
					stm.Put("app/go/count", strconv.Itoa(count+1))
					return nil
				}); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for i := 0; i < 4; i++ {
		must(<-done)
	}
	count, err := etcd.Get(ctx, "app/go/count")
	must(err)
	check(string(count.Kvs[0].Value) == "20", "every increment counts")
	fmt.Println("stm")
}
