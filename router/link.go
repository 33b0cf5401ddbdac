package router

import (
	"fmt"
	"sync"

	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/shard"
	"google.golang.org/grpc/mem"
)

const (
	// maxCalls and maxCallBytes bound what a gateway has in flight to one member.
	maxCalls     = 1 << 15
	maxCallBytes = 128 << 20
	// maxServed bounds what a member has in work for one gateway.
	maxServed = 1 << 16
)

// call is one try of a request that somebody waits for. It is completed once
// per try, by whoever has the right to: the replica that took it, or whoever
// removes it from its link.
type call struct {
	// done holds one token once res or err is set.
	done chan struct{}
	res  result
	err  error
	// partial takes the answers to a resolve frame as they come.
	partial func([]resolved)

	// req and onDone are those of a local replica.
	req    shard.Request
	onDone func(*shard.Reply, error)
	bytes  int
}

func newCall() *call {
	c := &call{done: make(chan struct{}, 1)}
	c.onDone = c.finishLocal
	return c
}

func (c *call) finishLocal(rep *shard.Reply, err error) {
	if err == nil {
		c.res = result{msg: response(rep), revision: rep.Revision, applied: rep.Applied, generation: rep.Generation}
	}
	c.finish(err)
}

func (c *call) finish(err error) {
	c.err = err
	c.done <- struct{}{}
}

// link is the way to one other member.
type link struct {
	member uint64
	mesh   Mesh
	// first is the first id that was given.
	first uint64

	mu struct {
		sync.Mutex
		next  uint64
		calls map[uint64]*call
		bytes int
		// served are requests of that member that are in work here.
		served map[uint64]*served
	}
	// replies bounds the goroutines that hold back a reply until the member is
	// connected.
	replies chan struct{}
}

// maxLateReplies is how many replies may wait for a connection.
const maxLateReplies = 256

// newLink makes a link whose ids begin at first. They must not meet the ids of
// an earlier run of this process, whose replies may still be on their way.
func newLink(member, first uint64, mesh Mesh) *link {
	l := &link{member: member, mesh: mesh, first: first, replies: make(chan struct{}, maxLateReplies)}
	l.mu.next = first
	l.mu.calls = make(map[uint64]*call)
	l.mu.served = make(map[uint64]*served)
	return l
}

// frames are reused: the mesh copies what it is given.
var frames = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// maxKeptFrame is the largest buffer that goes back to the pool.
const maxKeptFrame = 256 << 10

func putFrame(b *[]byte) {
	if cap(*b) <= maxKeptFrame {
		*b = (*b)[:0]
		frames.Put(b)
	}
}

// send registers a call and sends what encode makes of its id. An error means
// that nothing was sent and that the call is not registered.
func (l *link) send(c *call, size int, encode func(b []byte, id uint64) []byte) (id uint64, err error) {
	c.bytes = size
	l.mu.Lock()
	if len(l.mu.calls) >= maxCalls || (l.mu.bytes+size > maxCallBytes && l.mu.bytes > 0) {
		l.mu.Unlock()
		return 0, fmt.Errorf("%w: %d requests in flight to member %016x", peer.ErrBacklog, maxCalls, l.member)
	}
	id = l.mu.next
	l.mu.next++
	l.mu.calls[id] = c
	l.mu.bytes += size
	l.mu.Unlock()

	b := frames.Get().(*[]byte)
	*b = encode((*b)[:0], id)
	err = l.mesh.Send(l.member, peer.ChannelRequest, *b)
	putFrame(b)
	if err == nil {
		return id, nil
	}
	if l.take(id) == nil {
		// The loss of the connection got hold of it first.
		<-c.done
	}
	return 0, err
}

// take removes a call; whoever gets it completes it.
func (l *link) take(id uint64) *call {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.mu.calls[id]
	if c != nil {
		delete(l.mu.calls, id)
		l.mu.bytes -= c.bytes
	}
	return c
}

// cancel gives a call up. ok is false if it was completed already.
func (l *link) cancel(id uint64) (ok bool) {
	if l.take(id) == nil {
		return false
	}
	var b [9]byte
	// The owner then learns of it by the loss of the connection, or never needs to.
	_ = l.mesh.Send(l.member, peer.ChannelRequest, appendCancelFrame(b[:0], id))
	return true
}

// lost fails everything in flight, in both directions.
func (l *link) lost() {
	l.mu.Lock()
	calls, work := l.mu.calls, l.mu.served
	l.mu.calls, l.mu.served = make(map[uint64]*call), make(map[uint64]*served)
	l.mu.bytes = 0
	l.mu.Unlock()
	for _, c := range calls {
		c.finish(errConnectionLost)
	}
	for _, s := range work {
		s.ctx.cancel()
	}
}

// reply completes the call that a reply frame answers. The frame is copied as
// far as it is kept.
func (l *link) reply(frame []byte) error {
	f, err := decodeReplyFrame(frame)
	if err != nil {
		return err
	}
	c := l.take(f.id)
	if c == nil {
		return nil // cancelled
	}
	if f.err == nil {
		c.res = result{revision: f.revision, applied: f.applied, generation: f.generation, body: mem.Copy(f.body, mem.DefaultBufferPool())}
	}
	c.finish(f.err)
	return nil
}

// resolveReply passes answers on; the last of them complete the call.
func (l *link) resolveReply(frame []byte) error {
	id, answers, more, err := decodeResolveReply(frame)
	if err != nil {
		return err
	}
	l.mu.Lock()
	c := l.mu.calls[id]
	var take func([]resolved)
	if c != nil {
		take = c.partial
	}
	l.mu.Unlock()
	if take == nil {
		return nil
	}
	take(answers)
	if more {
		return nil
	}
	if c := l.take(id); c != nil {
		c.finish(nil)
	}
	return nil
}
