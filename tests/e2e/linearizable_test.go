package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// register is what the linearizability checker knows of one key.
type registerInput struct {
	key    string
	op     string // get, put or cas
	value  string // put, cas: the new value
	expect string // cas: the value that must be there
}

type registerOutput struct {
	value   string // get
	swapped bool   // cas
	unknown bool   // the request ended in an error: a put or cas may have happened
}

var registerModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(registerInput).key
			byKey[key] = append(byKey[key], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out, value := input.(registerInput), output.(registerOutput), state.(string)
		switch in.op {
		case "put":
			return true, in.value
		case "cas":
			if value == in.expect && (out.swapped || out.unknown) {
				return true, in.value
			}
			return !out.swapped, value
		}
		return out.value == value, value
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

func TestRegisterModelFindsAnomalies(t *testing.T) {
	op := func(client int, call, ret int64, in registerInput, out registerOutput) porcupine.Operation {
		in.key = "k"
		return porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: ret}
	}
	put := op(0, 0, 10, registerInput{op: "put", value: "1"}, registerOutput{})
	for name, c := range map[string]struct {
		history []porcupine.Operation
		want    bool
	}{
		"a fresh read":            {[]porcupine.Operation{put, op(1, 20, 30, registerInput{op: "get"}, registerOutput{value: "1"})}, true},
		"a stale read":            {[]porcupine.Operation{put, op(1, 20, 30, registerInput{op: "get"}, registerOutput{})}, false},
		"a lost swap":             {[]porcupine.Operation{put, op(1, 20, 30, registerInput{op: "cas", expect: "1", value: "2"}, registerOutput{swapped: true}), op(1, 40, 50, registerInput{op: "get"}, registerOutput{value: "1"})}, false},
		"a swap of what was not":  {[]porcupine.Operation{put, op(1, 20, 30, registerInput{op: "cas", expect: "9", value: "2"}, registerOutput{swapped: true})}, false},
		"an unknown put happened": {[]porcupine.Operation{op(0, 0, 1000, registerInput{op: "put", value: "1"}, registerOutput{unknown: true}), op(1, 20, 30, registerInput{op: "get"}, registerOutput{value: "1"})}, true},
	} {
		if got := porcupine.CheckOperations(registerModel, c.history); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestLinearizable: what clients of every member see is linearizable per key while members are killed, frozen and brought back and shards are
// split; in the end everything works again. A failure can be tried again with its seed, though not replayed exactly: processes and
// the network have a timing of their own.
func TestLinearizable(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := startCluster(t, cluster.Options{Members: 3})
	e := &env{cluster: c, cli: client(t, c), sharded: binaries.kvd}
	var pinned []*clientv3.Client
	for _, m := range c.Members {
		pinned = append(pinned, client(t, c, m))
	}
	const clients, keys = 9, 6
	var mu sync.Mutex
	var history []porcupine.Operation
	base := time.Now()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var values atomic.Int64
	for id := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(id)))
			known := map[string]string{}
			pace := time.NewTicker(5 * time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-stop:
					return
				case <-pace.C:
				}
				in := registerInput{key: fmt.Sprintf("reg/%d", rng.IntN(keys)), op: []string{"get", "get", "put", "cas"}[rng.IntN(4)]}
				in.expect, in.value = known[in.key], fmt.Sprint(values.Add(1))
				op := porcupine.Operation{ClientId: id, Input: in, Call: int64(time.Since(base))}
				out, err := doRegister(pinned[id%3], in)
				op.Return, op.Output = int64(time.Since(base)), out
				if err != nil {
					if in.op == "get" {
						continue
					}
					// It may take effect at any time from its call on.
					op.Return = 1 << 62
				} else if in.op == "get" {
					known[in.key] = out.value
				}
				mu.Lock()
				history = append(history, op)
				mu.Unlock()
			}
		})
	}
	e.disturb(t, rand.New(rand.NewPCG(seed, 1000)))
	for _, cli := range pinned {
		waitFor(t, cli)
	}
	close(stop)
	wg.Wait()
	result := porcupine.CheckOperationsTimeout(registerModel, history, time.Minute)
	var answered int
	for _, op := range history {
		if !op.Output.(registerOutput).unknown {
			answered++
		}
	}
	t.Logf("%d operations, %d of unknown fate", len(history), len(history)-answered)
	if result != porcupine.Ok {
		t.Errorf("the history of %d operations is %s", len(history), result)
	}
	if answered < 500 {
		t.Errorf("only %d operations were answered", answered)
	}
}

// disturb kills, freezes and splits, one after the other, with time between for the clients.
func (e *env) disturb(t *testing.T, rng *rand.Rand) {
	t.Helper()
	calm := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-t.Context().Done():
		}
	}
	calm(500 * time.Millisecond)
	e.split(t, "reg/2")
	calm(300 * time.Millisecond)
	for round := range 3 {
		m := e.cluster.Members[(round+rng.IntN(2))%3]
		if err := m.Pause(); err != nil {
			t.Fatal(err)
		}
		calm(time.Duration(300+rng.IntN(1500)) * time.Millisecond)
		if err := m.Resume(); err != nil {
			t.Fatal(err)
		}
		calm(500 * time.Millisecond)
		m = e.cluster.Members[rng.IntN(3)]
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		calm(time.Duration(rng.IntN(1500)) * time.Millisecond)
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		if err := m.WaitHealthy(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			e.split(t, "reg/4")
		}
		calm(500 * time.Millisecond)
	}
}

func doRegister(cli *clientv3.Client, in registerInput) (registerOutput, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	switch in.op {
	case "put":
		_, err := cli.Put(ctx, in.key, in.value)
		return registerOutput{unknown: err != nil}, err
	case "cas":
		cmp := clientv3.Compare(clientv3.Value(in.key), "=", in.expect)
		if in.expect == "" {
			cmp = clientv3.Compare(clientv3.Version(in.key), "=", 0)
		}
		resp, err := cli.Txn(ctx).If(cmp).Then(clientv3.OpPut(in.key, in.value)).Commit()
		if err != nil {
			return registerOutput{unknown: true}, err
		}
		return registerOutput{swapped: resp.Succeeded}, nil
	}
	got, err := cli.Get(ctx, in.key)
	if err != nil {
		return registerOutput{unknown: true}, err
	}
	if len(got.Kvs) == 0 {
		return registerOutput{}, nil
	}
	return registerOutput{value: string(got.Kvs[0].Value)}, nil
}
