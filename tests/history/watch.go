package history

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// WatchRequest is what a client asked to watch.
type WatchRequest struct {
	Key, End string // as in a range request; End "\x00" means all keys from Key on
	// Revision is where the watch begins; 0 means behind the revision that its creation told.
	Revision                         int64
	PrevKV, ProgressNotify, Fragment bool
	NoPut, NoDelete                  bool
}

// WatchResponse is one response as the stock client hands it out: fragments are put together, reconnections do not show.
type WatchResponse struct {
	Time                        int64
	Revision                    int64 // of the header
	CompactRevision             int64 `json:",omitempty"`
	Created, Canceled, Progress bool
	Events                      []*mvccpb.Event `json:",omitempty"`
	Error                       string          `json:",omitempty"`
}

// Watch is one watch of one client, with all that it was told.
type Watch struct {
	Client  int
	Member  string
	Request WatchRequest
	// Call is when it was asked for.
	Call      int64
	Responses []WatchResponse
}

func (w *Watch) String() string {
	return fmt.Sprintf("watch of client %d on %s of [%q, %q) from %d", w.Client, w.Member, w.Request.Key, w.Request.End, w.Request.Revision)
}

// Until gives what the watch was told before the first event above a revision.
func (w *Watch) Until(rev int64) *Watch {
	for i, r := range w.Responses {
		if n := len(r.Events); n > 0 && r.Events[n-1].Kv.ModRevision > rev {
			cut := *w
			cut.Responses = w.Responses[:i]
			return &cut
		}
	}
	return w
}

// start is the first revision that the watch is about; loose tells that an event of the revision before is no error: the stock client that loses its connection before the first
// event asks again from the revision that the creation told.
func (w *Watch) start() (rev int64, loose, known bool) {
	if w.Request.Revision > 0 {
		return w.Request.Revision, false, true
	}
	for _, r := range w.Responses {
		if r.Created {
			return r.Revision + 1, true, true
		}
	}
	return 0, false, false
}

// wants tells whether an event is what the watch is about.
func (w *Watch) wants(e *mvccpb.Event) bool {
	if e.Type == mvccpb.Event_PUT && w.Request.NoPut || e.Type == mvccpb.Event_DELETE && w.Request.NoDelete {
		return false
	}
	return inSpan(e.Kv.Key, []byte(w.Request.Key), []byte(w.Request.End))
}

// LiveWatch is a watch that is still being recorded.
type LiveWatch struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu struct {
		sync.Mutex
		watch    Watch
		position int64
		ended    bool
	}
}

// Watch opens a watch with a stock client and records it until it ends or is closed.
func (r *Recorder) Watch(ctx context.Context, cli *clientv3.Client, client int, member string, req WatchRequest) *LiveWatch {
	ctx, cancel := context.WithCancel(ctx)
	w := &LiveWatch{ctx: ctx, cancel: cancel}
	w.mu.watch = Watch{Client: client, Member: member, Request: req, Call: r.Now()}
	opts := []clientv3.OpOption{clientv3.WithCreatedNotify()}
	if req.End != "" {
		opts = append(opts, clientv3.WithRange(req.End))
	}
	if req.Revision > 0 {
		opts = append(opts, clientv3.WithRev(req.Revision))
	}
	for _, o := range []struct {
		on  bool
		opt clientv3.OpOption
	}{
		{req.PrevKV, clientv3.WithPrevKV()}, {req.ProgressNotify, clientv3.WithProgressNotify()}, {req.Fragment, clientv3.WithFragment()},
		{req.NoPut, clientv3.WithFilterPut()}, {req.NoDelete, clientv3.WithFilterDelete()},
	} {
		if o.on {
			opts = append(opts, o.opt)
		}
	}
	go func() {
		// The stock client's Watch returns only once the member answered, which may be away.
		for resp := range cli.Watch(ctx, req.Key, opts...) {
			w.add(r.Now(), resp)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.mu.ended = true
	}()
	return w
}

func (w *LiveWatch) add(now int64, resp clientv3.WatchResponse) {
	out := WatchResponse{
		Time: now, Revision: resp.Header.Revision, CompactRevision: resp.CompactRevision,
		Created: resp.Created, Canceled: resp.Canceled, Progress: resp.IsProgressNotify(),
	}
	if err := resp.Err(); err != nil {
		out.Error = err.Error()
	}
	for _, e := range resp.Events {
		out.Events = append(out.Events, (*mvccpb.Event)(e))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		return // the client has closed it
	}
	w.mu.watch.Responses = append(w.mu.watch.Responses, out)
	if n := len(out.Events); n > 0 {
		w.mu.position = max(w.mu.position, out.Events[n-1].Kv.ModRevision)
	} else if out.Progress {
		w.mu.position = max(w.mu.position, out.Revision)
	}
}

// Position is the revision up to which the watch has told everything.
func (w *LiveWatch) Position() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.position
}

// Ended tells whether the server ended the watch.
func (w *LiveWatch) Ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.ended
}

// Snapshot is what was recorded so far.
func (w *LiveWatch) Snapshot() *Watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.mu.watch
	out.Responses = slices.Clone(out.Responses)
	return &out
}

// Close ends the watch. It does not wait: the stock client lets go of a watch of a member that is away only when the member is back.
func (w *LiveWatch) Close() { w.cancel() }
