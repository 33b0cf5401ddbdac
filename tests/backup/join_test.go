package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/backup/etcdfile"
	"github.com/kvd-io/kvd/tests/cluster"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestJoin restores a cluster of one member and lets two others join it: what they get of a restored shard they cannot have from its log, which begins
// empty. Then the member that was restored is lost.
func TestJoin(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	kvctl := bin(t, "KVD_TEST_KVCTL", "github.com/kvd-io/kvd/cmd/kvctl")
	c, err := cluster.New(cluster.Options{Binary: bin(t, "KVD_TEST_BIN", "github.com/kvd-io/kvd/cmd/kvd"), Members: 3})
	require.NoError(t, err)
	defer c.Close()
	defer func() {
		if t.Failed() {
			for _, m := range c.Members {
				t.Log(m.Name, m.LogTail(6000))
			}
		}
	}()
	const rows, lease = 900, 7
	file := snapshotFile(t, rows, lease)
	all := strings.Split(initial(c), ",")
	m1 := c.Members[0]
	run(t, kvctl, "snapshot", "restore", file, "--name", m1.Name, "--data-dir", m1.DataDir, "--initial-cluster", all[0],
		"--initial-advertise-peer-urls", m1.PeerURL, "--shard-bytes", "20000")
	m1.SetArgs("--initial-cluster=" + all[0])
	require.NoError(t, m1.Start())
	require.NoError(t, m1.WaitReady(ctx))
	c1 := client(t, c, m1)
	// A write on top of the restored state, so that it is not all that there is.
	put, err := c1.Put(ctx, "after", "1", clientv3.WithLease(lease))
	require.NoError(t, err)
	require.EqualValues(t, rows+2, put.Header.Revision)

	for i := 1; i < 3; i++ {
		m := c.Members[i]
		until(ctx, t, func(ctx context.Context) error {
			_, err := c1.MemberAdd(ctx, []string{m.PeerURL})
			return err
		})
		m.SetArgs("--initial-cluster-state=existing", "--initial-cluster="+strings.Join(all[:i+1], ","))
		require.NoError(t, m.Start())
		require.NoError(t, m.WaitReady(ctx))
	}
	until(ctx, t, func(context.Context) error {
		var shards []struct {
			Replicas []struct {
				Voting bool `json:"voting"`
			} `json:"replicas"`
		}
		list := run(t, kvctl, "--endpoints", m1.ClientURL, "shard", "list", "-w", "json")
		if err := json.Unmarshal([]byte(list), &shards); err != nil {
			return err
		}
		voters := 0
		for _, s := range shards {
			for _, r := range s.Replicas {
				if r.Voting {
					voters++
				}
			}
		}
		if len(shards) < 3 || voters != 3*len(shards) {
			return fmt.Errorf("%d shards have %d voting replicas: %s", len(shards), voters, list)
		}
		return nil
	})
	require.NoError(t, m1.Kill())

	rest := client(t, c, c.Members[1], c.Members[2])
	for _, rev := range []int64{2, rows / 2, rows + 1} {
		var got *clientv3.GetResponse
		until(ctx, t, func(ctx context.Context) (err error) {
			got, err = rest.Get(ctx, "key/", clientv3.WithPrefix(), clientv3.WithRev(rev))
			return err
		})
		require.Len(t, got.Kvs, int(min(rev-1, rows/2)))
	}
	ttl, err := rest.TimeToLive(ctx, lease, clientv3.WithAttachedKeys())
	require.NoError(t, err)
	require.EqualValues(t, 600, ttl.GrantedTTL)
	require.Len(t, ttl.Keys, 1+rows/2/10)
	_, err = rest.Revoke(ctx, lease)
	require.NoError(t, err)
	left, err := rest.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	require.NoError(t, err)
	require.EqualValues(t, rows/2-rows/2/10, left.Count)
}

// until tries until it succeeds.
func until(ctx context.Context, t *testing.T, try func(context.Context) error) {
	t.Helper()
	for {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := try(attempt)
		cancel()
		if err == nil {
			return
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%v: %v", ctx.Err(), err)
		}
	}
}

// snapshotFile writes a file of puts to half as many keys, from revision 2 on. Each tenth key is attached to a lease of 600 s.
func snapshotFile(t *testing.T, rows, lease int64) string {
	t.Helper()
	w, err := etcdfile.Create(filepath.Join(t.TempDir(), "db"))
	require.NoError(t, err)
	for i := range rows {
		kv := etcdfile.KeyValue{Key: fmt.Appendf(nil, "key/%06d", i%(rows/2)), Value: bytes.Repeat([]byte("v"), 100), Mod: i + 2, Create: i + 2, Version: 1}
		if i >= rows/2 {
			kv.Create, kv.Version = kv.Mod-rows/2, 2
		}
		if i%(rows/2)%10 == 0 {
			kv.Lease = lease
		}
		require.NoError(t, w.Row(etcdfile.AppendRevision(nil, etcdfile.Revision{Main: i + 2}), etcdfile.AppendKeyValue(nil, &kv)))
	}
	require.NoError(t, w.Lease(etcdfile.Lease{ID: lease, TTL: 600}))
	require.NoError(t, w.Finish(&etcdfile.Contents{}))
	var out bytes.Buffer
	require.NoError(t, w.WriteTo(t.Context(), &out))
	require.NoError(t, w.Close())
	sum := sha256.Sum256(out.Bytes())
	path := filepath.Join(t.TempDir(), "snapshot")
	require.NoError(t, os.WriteFile(path, append(out.Bytes(), sum[:]...), 0o600))
	return path
}
