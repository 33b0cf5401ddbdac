package server

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/server/config"
)

func startCluster(t *testing.T, n int) []*Member {
	lg, _ := zap.NewDevelopment()
	initial := ""
	for i := range n {
		if i > 0 {
			initial += ","
		}
		initial += fmt.Sprintf("m%d=http://127.0.0.1:%d", i, 23800+i)
	}
	ms := make([]*Member, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			p := fmt.Sprintf("http://127.0.0.1:%d", 23800+i)
			inv, err := config.Parse([]string{"--name", fmt.Sprintf("m%d", i), "--data-dir", t.TempDir(), "--listen-peer-urls", p, "--initial-advertise-peer-urls", p, "--initial-cluster", initial}, nil)
			if err != nil {
				t.Error(err)
				return
			}
			inv.Config.Logger = lg.Named(fmt.Sprintf("m%d", i))
			if os.Getenv("QUIET") != "" {
				inv.Config.Logger = zap.NewNop()
			}
			ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
			defer cancel()
			ms[i], err = Start(ctx, inv.Config)
			if err != nil {
				t.Error(i, err)
			}
		}()
	}
	wg.Wait()
	return ms
}

func TestOne(t *testing.T) {
	ms := startCluster(t, 1)
	run(t, ms)
}

func TestThree(t *testing.T) {
	ms := startCluster(t, 3)
	run(t, ms)
}

func run(t *testing.T, ms []*Member) {
	for _, m := range ms {
		require.NotNil(t, m)
		defer m.Close()
	}
	for i, m := range ms {
		r, err := m.router.Put(t.Context(), &pb.PutRequest{Key: []byte(fmt.Sprint("k", i)), Value: []byte("v")})
		require.NoError(t, err)
		fmt.Println("put", r.Header)
		g, err := m.router.Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
		require.NoError(t, err)
		fmt.Println("range", g.Header, g.Kvs)
	}
	t0 := time.Now()
	l, r, err := ms[0].router.Split(t.Context(), keyspace.User([]byte("k1")))
	require.NoError(t, err)
	fmt.Println("split", time.Since(t0), l, r)
	for i, m := range ms {
		r, err := m.router.Put(t.Context(), &pb.PutRequest{Key: []byte(fmt.Sprint("k", i)), Value: []byte("v2")})
		require.NoError(t, err)
		fmt.Println("put", r.Header)
		g, err := m.router.Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
		require.NoError(t, err)
		fmt.Println("range", g.Header, g.Kvs)
	}
}
