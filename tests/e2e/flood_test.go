package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/tests/cluster"
)

// TestFloods has clients that ask for much and read little, on one member. What each holds of its memory is bounded, and
// other clients are served meanwhile.
func TestFloods(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Args: []string{"--enable-pprof"}})
	m, other := c.Members[0], client(t, c)
	served := func(t *testing.T) {
		t.Helper()
		if _, err := other.Put(within(t, patience), "other", "v"); err != nil {
			t.Errorf("another client: %v", err)
		}
	}
	t.Run("Watches", func(t *testing.T) { testWatchMemory(t, c, m, served) })
	t.Run("KeepAlives", func(t *testing.T) { testKeepAliveFlood(t, c, m, served) })
	t.Run("HalfClosedStreams", func(t *testing.T) { testHalfClosed(t, c, m, served) })
	t.Run("Metadata", func(t *testing.T) { testBigMetadata(t, c, served) })
}

// heap is what a member's heap holds after a collection.
func heap(t *testing.T, m *cluster.Member) float64 {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t, patience), http.MethodGet, m.ClientURL+"/debug/pprof/heap?gc=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	v, err := gauge(t, m, "go_memstats_heap_alloc_bytes")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// watchBytes bounds what a watch of one key takes of a member's heap. The goal is 2 KiB.
const watchBytes = 2 << 10

func testWatchMemory(t *testing.T, c *cluster.Cluster, m *cluster.Member, served func(*testing.T)) {
	const watches = 20000
	cli := client(t, c)
	before := heap(t, m)
	w := openRaw(t, cli)
	began := time.Now()
	go func() {
		for i := range watches {
			w.create(&pb.WatchCreateRequest{Key: fmt.Appendf(nil, "/registry/pods/namespace-%03d/pod-%05d", i%100, i)})
		}
	}()
	for i := range watches {
		if resp := w.next(); !resp.Created || resp.Canceled {
			t.Fatalf("watch %d: %v", i, resp)
		}
	}
	took := time.Since(began)
	served(t)
	each := (heap(t, m) - before) / watches
	t.Logf("%d watches on one connection within %v, %.0f bytes of heap each", watches, took.Round(time.Millisecond), each)
	if each > watchBytes {
		t.Errorf("a watch takes %.0f bytes, more than %d", each, watchBytes)
	}
	if err := cli.Close(); err != nil {
		t.Fatal(err)
	}
	reach(t, patience, "the end of the watches of a client that went", func() (bool, error) {
		return heap(t, m)-before < watches*watchBytes/10, nil
	})
}

// testKeepAliveFlood asks for many keep-alives and never reads an answer.
func testKeepAliveFlood(t *testing.T, c *cluster.Cluster, m *cluster.Member, served func(*testing.T)) {
	cli := client(t, c)
	before := heap(t, m)
	stream, err := pb.NewLeaseClient(cli.ActiveConnection()).LeaseKeepAlive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stuck := make(chan struct{})
	go func() {
		defer close(stuck)
		for range 1 << 20 {
			if stream.Send(&pb.LeaseKeepAliveRequest{ID: 0x1234567}) != nil {
				return
			}
		}
	}()
	select {
	case <-stuck:
		// All of it was taken in, so it was answered or lies in the windows of the connection.
	case <-time.After(2 * time.Second):
	}
	served(t)
	if grown := heap(t, m) - before; grown > 32<<20 {
		t.Errorf("a flood of keep-alives takes %.0f MiB", grown/(1<<20))
	}
	if err := cli.Close(); err != nil {
		t.Fatal(err)
	}
	<-stuck
}

// testHalfClosed opens streams, says that there is nothing more to ask for, and goes away.
func testHalfClosed(t *testing.T, c *cluster.Cluster, m *cluster.Member, served func(*testing.T)) {
	goroutines := func() float64 {
		n, err := gauge(t, m, "go_goroutines")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := goroutines()
	cli := client(t, c)
	const streams = 200
	for range streams {
		w, err := pb.NewWatchClient(cli.ActiveConnection()).Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("half")}}}); err != nil {
			t.Fatal(err)
		}
		if err := w.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if r, err := w.Recv(); err != nil || !r.Created {
			t.Fatalf("a stream that is half closed: %v, %v", r, err)
		}
	}
	served(t)
	if err := cli.Close(); err != nil {
		t.Fatal(err)
	}
	reach(t, patience, "the end of half closed streams", func() (bool, error) { return goroutines() < before+streams/4, nil })
}

// testBigMetadata sends metadata as large as a client may.
func testBigMetadata(t *testing.T, c *cluster.Cluster, served func(*testing.T)) {
	cli := client(t, c)
	for _, size := range []int{64 << 10, 32 << 20} {
		ctx := metadata.AppendToOutgoingContext(within(t, patience), "token", strings.Repeat("x", size))
		_, err := pb.NewKVClient(cli.ActiveConnection()).Range(clientv3.WithRequireLeader(ctx), &pb.RangeRequest{Key: []byte("k")})
		switch code := status.Code(err); code {
		case codes.OK, codes.Internal, codes.ResourceExhausted, codes.Unavailable, codes.Unauthenticated, codes.InvalidArgument:
		default:
			t.Errorf("%d bytes of metadata: %v", size, err)
		}
		served(t)
	}
}
