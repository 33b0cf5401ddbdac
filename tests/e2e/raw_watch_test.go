package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// rawWatch is one watch stream without the client library, which hides fragments, creation and cancellation.
type rawWatch struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[pb.WatchRequest, pb.WatchResponse]
	in     chan *pb.WatchResponse
}

func openRaw(t *testing.T, cli *clientv3.Client, opts ...grpc.CallOption) *rawWatch {
	t.Helper()
	ctx := within(t, patience)
	stream, err := pb.NewWatchClient(cli.ActiveConnection()).Watch(ctx, append(opts, grpc.MaxCallRecvMsgSize(64<<20))...)
	if err != nil {
		t.Fatal(err)
	}
	w := &rawWatch{t: t, stream: stream, in: make(chan *pb.WatchResponse, 1)}
	go func() {
		defer close(w.in)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case w.in <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return w
}

func (w *rawWatch) create(r *pb.WatchCreateRequest) {
	w.t.Helper()
	if err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
		w.t.Error(err)
	}
}

func (w *rawWatch) cancel(id int64) {
	w.t.Helper()
	if err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *rawWatch) progress() {
	w.t.Helper()
	if err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}); err != nil {
		w.t.Fatal(err)
	}
}

// next is the next response, whatever it is.
func (w *rawWatch) next() *pb.WatchResponse {
	w.t.Helper()
	select {
	case m, ok := <-w.in:
		if !ok {
			w.t.Fatal("the watch stream ended")
		}
		return m
	case <-time.After(patience):
		w.t.Fatal("no response on the watch stream")
	}
	return nil
}

// created creates a watch and takes the response that says so.
func (w *rawWatch) created(r *pb.WatchCreateRequest) *pb.WatchResponse {
	w.t.Helper()
	w.create(r)
	m := w.next()
	if !m.Created || m.Canceled {
		w.t.Fatalf("creating a watch: %v", m)
	}
	return m
}

// story writes events without the test's prefix.
func story(events []*mvccpb.Event) []string {
	var s []string
	for _, ev := range events {
		line := fmt.Sprintf("put %s=%.20s@%d", short(ev.Kv.Key), ev.Kv.Value, ev.Kv.ModRevision)
		if ev.Type == mvccpb.Event_DELETE {
			line = fmt.Sprintf("delete %s@%d", short(ev.Kv.Key), ev.Kv.ModRevision)
		}
		if ev.PrevKv != nil {
			line += fmt.Sprintf(" (was %.20s@%d)", ev.PrevKv.Value, ev.PrevKv.ModRevision)
		}
		s = append(s, line)
	}
	return s
}

// collect takes n events of a stock watch.
func collect(t *testing.T, ch clientv3.WatchChan, n int) string {
	t.Helper()
	var s []string
	deadline := time.After(patience)
	for len(s) < n {
		select {
		case resp, ok := <-ch:
			if !ok {
				t.Fatalf("the watch ended after %v", s)
			}
			if err := resp.Err(); err != nil {
				t.Fatalf("after %v: %v", s, err)
			}
			var events []*mvccpb.Event
			for _, ev := range resp.Events {
				events = append(events, (*mvccpb.Event)(ev))
			}
			s = append(s, story(events)...)
		case <-deadline:
			t.Fatalf("only %v came", s)
		}
	}
	return strings.Join(s, ", ")
}
