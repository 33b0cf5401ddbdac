package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// testTxnOverRanges: a transaction whose keys lie far from each other is one transaction, with one revision and one response of a watch.
func testTxnOverRanges(t *testing.T, e *env, p string) {
	keys := []string{p + "a", p + "g", p + "p", p + "z"}
	e.split(t, p+"d", p+"k", p+"s")
	base := e.put(t, keys[0], "0")
	ctx := within(t, patience)
	events := e.cli.Watch(ctx, p, clientv3.WithPrefix(), clientv3.WithRev(base+1), clientv3.WithPrevKV())

	// A failed compare somewhere else does nothing and takes no revision.
	no := e.commit(t, e.cli.Txn(ctx).If(clientv3.Compare(clientv3.Version(keys[3]), ">", 0)).Then(clientv3.OpPut(keys[1], "x")).
		Else(clientv3.OpGet(keys[0]), clientv3.OpGet(p, clientv3.WithPrefix(), clientv3.WithCountOnly())))
	if no.Succeeded || no.Header.Revision != base || values(no.Responses[0].GetResponseRange().Kvs) != "a=0" || no.Responses[1].GetResponseRange().Count != 1 {
		t.Errorf("failed compare: %v", no)
	}
	// It sees its own writes, over all keys, in the order of its operations.
	yes := e.commit(t, e.cli.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(keys[3]), "=", 0), clientv3.Compare(clientv3.Value(keys[0]), "=", "0")).
		Then(clientv3.OpPut(keys[3], "3"), clientv3.OpPut(keys[1], "1"), clientv3.OpPut(keys[0], "00", clientv3.WithPrevKV()),
			clientv3.OpGet(p, clientv3.WithPrefix()),
			clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version(keys[2]), "=", 0)}, []clientv3.Op{clientv3.OpPut(keys[2], "2")}, nil),
			clientv3.OpGet(p, clientv3.WithPrefix(), clientv3.WithLimit(2), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)),
		))
	if !yes.Succeeded || yes.Header.Revision != base+1 {
		t.Fatalf("transaction over all keys: %v", yes)
	}
	if got := values(yes.Responses[3].GetResponseRange().Kvs); got != "a=00 g=1 z=3" {
		t.Errorf("own writes: %q", got)
	}
	if last := yes.Responses[5].GetResponseRange(); values(last.Kvs) != "z=3 p=2" || last.Count != 4 || !last.More {
		t.Errorf("limited range inside: %v", last)
	}
	if prev := yes.Responses[2].GetResponsePut().PrevKv; prev == nil || string(prev.Value) != "0" {
		t.Errorf("previous value %v", prev)
	}
	for i, kv := range e.get(t, p, clientv3.WithPrefix()).Kvs {
		if kv.ModRevision != base+1 {
			t.Errorf("key %d was written at %d, not %d", i, kv.ModRevision, base+1)
		}
	}
	// A delete over all of them is one revision too.
	del := e.del(t, p, clientv3.WithPrefix(), clientv3.WithPrevKV())
	if del.Deleted != 4 || len(del.PrevKvs) != 4 || del.Header.Revision != base+2 {
		t.Errorf("delete: %v", del)
	}
	if again := e.del(t, p, clientv3.WithPrefix()); again.Deleted != 0 || again.Header.Revision != base+2 {
		t.Errorf("delete of nothing: %v", again)
	}
	// A watch that begins late may get both in one response, but never a part of one.
	want := []string{"z=3 g=1 a=00 p=2", "a g p z"}
	for seen := 0; seen < len(want); {
		resp, ok := <-events
		if err := resp.Err(); err != nil || !ok {
			t.Fatalf("watch ended after %d transactions: %v", seen, err)
		}
		got := make([]string, len(want))
		for _, ev := range resp.Events {
			i := ev.Kv.ModRevision - base - 1
			if i < int64(seen) || i >= int64(len(want)) {
				t.Fatalf("event of revision %d after %d of %d transactions", ev.Kv.ModRevision, seen, len(want))
			}
			if got[i] != "" {
				got[i] += " "
			}
			got[i] += string(ev.Kv.Key[len(p):])
			if ev.Type == clientv3.EventTypePut {
				got[i] += "=" + string(ev.Kv.Value)
			}
		}
		for _, events := range got {
			if events == "" {
				continue
			}
			if events != want[seen] {
				t.Errorf("transaction %d was watched as %q, want %q", seen, events, want[seen])
			}
			if seen++; seen == len(want) {
				break
			}
		}
	}
	// Reads at old revisions inside, checked against the bounds.
	if _, err := e.cli.Txn(ctx).Then(clientv3.OpGet(keys[0], clientv3.WithRev(base+1000)), clientv3.OpPut(keys[3], "x")).Commit(); err == nil {
		t.Error("a future revision inside a transaction was accepted")
	}
	old := e.commit(t, e.cli.Txn(ctx).Then(clientv3.OpGet(p, clientv3.WithPrefix(), clientv3.WithRev(base+1)), clientv3.OpPut(keys[3], "4"), clientv3.OpGet(keys[0])))
	if got := values(old.Responses[0].GetResponseRange().Kvs); got != "a=00 g=1 p=2 z=3" {
		t.Errorf("old revision inside: %q", got)
	}
	// Only reads, over all keys, at one revision.
	all := e.commit(t, e.cli.Txn(ctx).If(clientv3.Compare(clientv3.Value(keys[3]), "=", "4")).Then(clientv3.OpGet(keys[0]), clientv3.OpGet(keys[3])))
	if !all.Succeeded || all.Header.Revision != old.Header.Revision || values(all.Responses[1].GetResponseRange().Kvs) != "z=4" {
		t.Errorf("reads only: %v", all)
	}
}

const (
	bankAccounts = 12
	bankStart    = 100
)

func bankKey(i int) string { return fmt.Sprintf("bank/%02d", i) }

// TestBank moves money between accounts in different shards while members are killed, frozen and brought back and shards are split. The sum
// is the same at every revision that anybody reads, in every watch response, and at the end; nothing waits for ever.
func TestBank(t *testing.T) {
	onlyKvd(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := startCluster(t, cluster.Options{Members: 3})
	e := &env{cluster: c, cli: client(t, c), sharded: true}
	for i := range bankAccounts {
		e.put(t, bankKey(i), strconv.Itoa(bankStart))
	}
	e.split(t, bankKey(3), bankKey(6), bankKey(9))
	watched := make(chan error, 1)
	watchCtx, stopWatch := context.WithCancel(t.Context())
	go func() { watched <- watchBank(watchCtx, e.cli, e.revision(t)) }()

	var pinned []*clientv3.Client
	for _, m := range c.Members {
		pinned = append(pinned, client(t, c, m))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var moved, refused, sums atomic.Int64
	for id := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(id)))
			pace := time.NewTicker(4 * time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-stop:
					return
				case <-pace.C:
				}
				ok, err := transfer(pinned[id%3], rng)
				switch {
				case err != nil:
					refused.Add(1)
				case ok:
					moved.Add(1)
				}
			}
		})
	}
	for id := range 3 {
		wg.Go(func() {
			pace := time.NewTicker(10 * time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-stop:
					return
				case <-pace.C:
				}
				switch err := checkSum(pinned[id]); {
				case err == nil:
					sums.Add(1)
				case errors.Is(err, errBank):
					t.Error(err)
				}
			}
		})
	}
	e.disturb(t, rand.New(rand.NewPCG(seed, 1000)))
	for _, cli := range pinned {
		waitFor(t, cli)
	}
	// Everything moves again: transactions between all shards are carried out.
	at := moved.Load()
	eventually(t, patience, func(context.Context) error {
		if moved.Load() < at+50 {
			return fmt.Errorf("%d transfers since the last fault", moved.Load()-at)
		}
		return nil
	})
	close(stop)
	wg.Wait()
	for _, cli := range pinned {
		eventually(t, patience, func(context.Context) error { return checkSum(cli) })
	}
	eventually(t, patience, func(ctx context.Context) error { return e.bankHashes(ctx) })
	stopWatch()
	if err := <-watched; err != nil {
		t.Error(err)
	}
	t.Logf("%d transfers, %d failed, %d sums", moved.Load(), refused.Load(), sums.Load())
	if moved.Load() < 200 || sums.Load() < 100 {
		t.Error("too little was done")
	}
}

// bankHashes compares the members' hashes of the store.
func (e *env) bankHashes(ctx context.Context) error {
	rev := int64(0)
	hashes := map[uint32]bool{}
	for _, m := range e.cluster.Members {
		h, err := e.cli.HashKV(ctx, m.ClientURL, rev)
		if err != nil {
			return err
		}
		if rev == 0 {
			rev = h.Header.Revision
		}
		hashes[h.Hash] = true
	}
	if len(hashes) != 1 && rev != 0 {
		return fmt.Errorf("%d different hashes at revision %d", len(hashes), rev)
	}
	return nil
}

var errBank = errors.New("money was made or lost")

func transfer(cli *clientv3.Client, rng *rand.Rand) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	from, to := rng.IntN(bankAccounts), rng.IntN(bankAccounts-1)
	if to >= from {
		to++
	}
	got, err := cli.Txn(ctx).Then(clientv3.OpGet(bankKey(from)), clientv3.OpGet(bankKey(to))).Commit()
	if err != nil {
		return false, err
	}
	a, b := got.Responses[0].GetResponseRange().Kvs[0], got.Responses[1].GetResponseRange().Kvs[0]
	have, _ := strconv.Atoi(string(a.Value))
	other, _ := strconv.Atoi(string(b.Value))
	amount := rng.IntN(10) + 1
	resp, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(bankKey(from)), "=", a.ModRevision),
		clientv3.Compare(clientv3.ModRevision(bankKey(to)), "=", b.ModRevision)).
		Then(clientv3.OpPut(bankKey(from), strconv.Itoa(have-amount)), clientv3.OpPut(bankKey(to), strconv.Itoa(other+amount))).Commit()
	if err != nil {
		return false, err
	}
	return resp.Succeeded, nil
}

func checkSum(cli *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	got, err := cli.Get(ctx, "bank/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	sum := 0
	for _, kv := range got.Kvs {
		n, err := strconv.Atoi(string(kv.Value))
		if err != nil {
			return err
		}
		sum += n
	}
	if sum != bankAccounts*bankStart || len(got.Kvs) != bankAccounts {
		return fmt.Errorf("%w: the sum is %d at revision %d", errBank, sum, got.Header.Revision)
	}
	return nil
}

// watchBank follows all accounts and checks the sum after each response: a transaction is never delivered in parts.
func watchBank(ctx context.Context, cli *clientv3.Client, rev int64) error {
	state := map[string]int{}
	got, err := cli.Get(ctx, "bank/", clientv3.WithPrefix(), clientv3.WithRev(rev))
	if err != nil {
		return err
	}
	for _, kv := range got.Kvs {
		state[string(kv.Key)], _ = strconv.Atoi(string(kv.Value))
	}
	last := rev
	for resp := range cli.Watch(ctx, "bank/", clientv3.WithPrefix(), clientv3.WithRev(rev+1)) {
		if err := resp.Err(); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		for i, ev := range resp.Events {
			if ev.Kv.ModRevision < last || (i == 0 && ev.Kv.ModRevision == last) {
				return fmt.Errorf("event of revision %d after %d", ev.Kv.ModRevision, last)
			}
			last = ev.Kv.ModRevision
			state[string(ev.Kv.Key)], _ = strconv.Atoi(string(ev.Kv.Value))
		}
		sum := 0
		for _, n := range state {
			sum += n
		}
		if sum != bankAccounts*bankStart {
			return fmt.Errorf("%w: the watched sum is %d at revision %d", errBank, sum, last)
		}
	}
	return nil
}
