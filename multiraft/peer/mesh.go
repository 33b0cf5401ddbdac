package peer

import (
	"context"
	"fmt"
	"net"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/kvd-io/kvd/internal/histogram"
)

// Handler takes one frame. It runs on the connection's reader goroutine; the frame is valid only during the call.
type Handler func(from uint64, frame []byte)

// Mesh is one member's end of the connections among members. It is safe for concurrent use.
type Mesh struct {
	cfg    Config
	log    *zap.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	bulk   *bulk

	handlers [numChannels]atomic.Pointer[Handler]
	// remotes is copied on write, so that Send finds a member without a lock.
	remotes atomic.Pointer[map[uint64]*remote]
	// maxPending is maxPendingBytes but for tests.
	maxPending int
	// unidentified bounds connections before their handshake.
	unidentified chan struct{}

	mu struct {
		sync.Mutex
		started, closed bool
		conns           map[net.Conn]struct{}
		down            []func(member uint64, ch Channel)
		refusals        map[uint64]string
	}
}

// remote is another member.
type remote struct {
	id  uint64
	out [numChannels]*outgoing
	in  [numChannels]incomingSlot
	rtt atomic.Int64
	// rtts are all round trips; the counters are what Status shows.
	rtts                     *histogram.Histogram
	sent, received, failures atomic.Uint64
}

// The bounds are etcd's.
const (
	lowestRTT  = 100 * time.Microsecond
	rttBuckets = 16
)

// New checks the configuration and makes a mesh that is not yet listening. Services may be registered on Registrar and handlers
// set until Start.
func New(cfg Config) (*Mesh, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	m := &Mesh{cfg: cfg, log: cfg.Logger, maxPending: maxPendingBytes, unidentified: make(chan struct{}, maxUnidentified)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.remotes.Store(&map[uint64]*remote{})
	m.mu.conns = make(map[net.Conn]struct{})
	m.mu.refusals = make(map[uint64]string)
	m.bulk = newBulk(m)
	return m, nil
}

// Start begins to accept connections.
func (m *Mesh) Start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return ErrClosed
	}
	if m.mu.started {
		return fmt.Errorf("peer: started twice")
	}
	m.mu.started = true
	m.bulk.start()
	for _, l := range m.cfg.Listeners {
		m.wg.Add(1)
		go m.accept(l)
	}
	return nil
}

// Close ends all connections and waits until no handler runs any more. Frames not yet written are lost.
func (m *Mesh) Close() {
	m.mu.Lock()
	if m.mu.closed {
		m.mu.Unlock()
		m.wg.Wait()
		return
	}
	m.mu.closed = true
	conns := make([]net.Conn, 0, len(m.mu.conns))
	for c := range m.mu.conns {
		conns = append(conns, c)
	}
	m.mu.Unlock()
	m.cancel()
	for _, l := range m.cfg.Listeners {
		_ = l.Close()
	}
	m.bulk.close()
	for _, c := range conns {
		_ = c.Close()
	}
	m.wg.Wait()
}

// MemberID returns this member's id.
func (m *Mesh) MemberID() uint64 { return m.cfg.MemberID }

// ClusterID returns the cluster's id.
func (m *Mesh) ClusterID() uint64 { return m.cfg.ClusterID }

// Handle sets what takes the frames of a channel. Until it is set, other members cannot connect to that channel.
func (m *Mesh) Handle(ch Channel, h func(from uint64, frame []byte)) {
	handler := Handler(h)
	m.handlers[ch].Store(&handler)
}

// NotifyDown adds a function that is called each time a connection with a member is lost, in either direction. Whatever was in
// flight on that channel is of unknown fate: requests may have arrived, answers may be lost.
func (m *Mesh) NotifyDown(f func(member uint64, ch Channel)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.down = append(m.mu.down, f)
}

func (m *Mesh) notifyDown(member uint64, ch Channel) {
	m.mu.Lock()
	down := m.mu.down
	m.mu.Unlock()
	for _, f := range down {
		f(member, ch)
	}
}

// Send queues a copy of the frame for a member and returns at once; one writer per connection writes all that is queued
// in one go. It returns ErrNotConnected, ErrBacklog, ErrFrameTooLarge, ErrSelf or ErrClosed; then the frame was not sent.
func (m *Mesh) Send(to uint64, ch Channel, frame []byte) error {
	o, err := m.outgoing(to, ch)
	if err != nil {
		return err
	}
	return o.send(frame)
}

// SendWith is Send for a sender that marshals: fill writes a frame of at most n bytes into the connection's buffer and returns
// its length, and where Send would return ErrBacklog it waits until there is room or the connection is lost. fill runs under the
// connection's lock and must not call the mesh.
func (m *Mesh) SendWith(to uint64, ch Channel, n int, fill func(b []byte) (int, error)) error {
	o, err := m.outgoing(to, ch)
	if err != nil {
		return err
	}
	return o.sendWith(n, fill)
}

// WaitConnected waits until there is an outgoing connection to the member, or the context is done.
func (m *Mesh) WaitConnected(ctx context.Context, to uint64, ch Channel) error {
	o, err := m.outgoing(to, ch)
	if err != nil {
		return err
	}
	return o.wait(ctx)
}

// Disconnect closes all connections with a member, for one that is no longer part of the cluster.
func (m *Mesh) Disconnect(member uint64) {
	r := (*m.remotes.Load())[member]
	if r == nil {
		return
	}
	for ch := range r.out {
		if o := r.out[ch]; o != nil {
			o.breakConn(fmt.Errorf("peer: disconnected"))
		}
		r.in[ch].closeConn()
	}
	m.bulk.disconnect(member)
}

// Registrar is where gRPC services among members are registered, before Start.
func (m *Mesh) Registrar() grpc.ServiceRegistrar { return m.bulk.server }

// Conn returns the gRPC connection to a member, for bulk traffic. It is shared; callers do not close it.
func (m *Mesh) Conn(to uint64) (*grpc.ClientConn, error) { return m.bulk.conn(to) }

// Peers tells about every member there was a connection or an attempt with, ordered by id.
func (m *Mesh) Peers() []Status {
	remotes := *m.remotes.Load()
	all := make([]Status, 0, len(remotes))
	for _, r := range remotes {
		all = append(all, r.status())
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Member < all[j].Member })
	return all
}

func (r *remote) status() Status {
	s := Status{
		Member: r.id, RTT: time.Duration(r.rtt.Load()), RTTs: r.rtts.Snapshot(),
		Sent: r.sent.Load(), Received: r.received.Load(), Failures: r.failures.Load(),
	}
	demanded, up := 0, 0
	for ch := range r.out {
		connected, used, since, err := r.out[ch].state()
		if !used {
			continue
		}
		demanded++
		if connected {
			up++
		} else if s.Err == nil {
			s.Err = err
		}
		if since.After(s.Since) {
			s.Since = since
		}
	}
	for ch := range r.in {
		if r.in[ch].connected() {
			s.Incoming++
		}
	}
	s.Connected = demanded > 0 && up == demanded
	return s
}

// remote returns the record of a member and makes it if there is none.
func (m *Mesh) remote(id uint64) *remote {
	if r := (*m.remotes.Load())[id]; r != nil {
		return r
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.remotes.Load()
	if r := old[id]; r != nil {
		return r
	}
	r := &remote{id: id, rtts: histogram.New(lowestRTT, rttBuckets)}
	for ch := range r.out {
		r.out[ch] = newOutgoing(m, r, Channel(ch))
	}
	grown := make(map[uint64]*remote, len(old)+1)
	for k, v := range old {
		grown[k] = v
	}
	grown[id] = r
	m.remotes.Store(&grown)
	return r
}

func (m *Mesh) outgoing(to uint64, ch Channel) (*outgoing, error) {
	if to == m.cfg.MemberID {
		return nil, ErrSelf
	}
	if to == 0 || ch >= numChannels {
		return nil, fmt.Errorf("peer: no member %d or %v", to, ch)
	}
	return m.remote(to).out[ch], nil
}

// track remembers a connection so that Close ends it. It returns false, and closes the connection, when the mesh is closed.
func (m *Mesh) track(c net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		_ = c.Close()
		return false
	}
	m.mu.conns[c] = struct{}{}
	return true
}

func (m *Mesh) untrack(c net.Conn) {
	m.mu.Lock()
	delete(m.mu.conns, c)
	m.mu.Unlock()
	_ = c.Close()
}

// begin counts a goroutine that Close waits for; false when the mesh is closed.
func (m *Mesh) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return false
	}
	m.wg.Add(1)
	return true
}

// logRefusal logs a refusal once per change of its text.
func (m *Mesh) logRefusal(member uint64, direction, reason string, fields ...zap.Field) {
	m.mu.Lock()
	key := direction + reason
	known := m.mu.refusals[member] == key
	if !known && len(m.mu.refusals) < 4096 {
		m.mu.refusals[member] = key
	}
	m.mu.Unlock()
	level := zap.WarnLevel
	if known {
		level = zap.DebugLevel
	}
	m.log.Log(level, "peer connection refused", append(fields,
		zap.String("direction", direction), zap.String("member", fmt.Sprintf("%016x", member)), zap.String("reason", reason))...)
}

func (m *Mesh) clearRefusal(member uint64) {
	m.mu.Lock()
	delete(m.mu.refusals, member)
	m.mu.Unlock()
}
