package cluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Network stands between the members of a cluster: each advertises the address of a proxy as its peer URL and listens elsewhere. It works in user space and without
// privileges, on the bytes of connections: a byte that is held back arrives later, as with TCP on a bad line, and is lost only with its connection.
//
// Rules hold for a direction between two members, whoever opened the connection: Cut(0, 1) holds back what member 0 sends on connections to member 1 as well as what it answers on
// connections from member 1.
type Network struct {
	cluster *Cluster
	proxies []*proxy

	mu struct {
		sync.Mutex
		rules   map[direction]rule
		changed chan struct{} // closed and replaced when rules change
		conns   map[*conduit]struct{}
		closed  bool
	}
}

type direction struct{ from, to int }

// rule is what happens to the bytes of one direction.
type rule struct {
	cut           bool
	delay, jitter time.Duration
	loss          float64
}

// retransmission is how long a lost packet holds up what follows it: the least that Linux waits before it sends again.
const retransmission = 200 * time.Millisecond

func newNetwork(c *Cluster) *Network {
	n := &Network{cluster: c}
	n.mu.rules = map[direction]rule{}
	n.mu.changed = make(chan struct{})
	n.mu.conns = map[*conduit]struct{}{}
	return n
}

// Cut holds back all that member from sends to member to.
func (n *Network) Cut(from, to int) { n.change(from, to, func(r *rule) { r.cut = true }) }

// Isolate cuts a member off from all others, in both directions.
func (n *Network) Isolate(member int) {
	for other := range n.cluster.Members {
		if other != member {
			n.Cut(member, other)
			n.Cut(other, member)
		}
	}
}

// Delay holds back what from sends to to by delay and up to jitter more. The order of bytes stays.
func (n *Network) Delay(from, to int, delay, jitter time.Duration) {
	n.change(from, to, func(r *rule) { r.delay, r.jitter = delay, jitter })
}

// Lose makes a share of what from sends to to arrive only after it was sent again.
func (n *Network) Lose(from, to int, share float64) {
	n.change(from, to, func(r *rule) { r.loss = share })
}

// Heal lets everything pass at once again. What was held back arrives.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.mu.rules)
	close(n.mu.changed)
	n.mu.changed = make(chan struct{})
}

// Reset breaks all connections between members; what was held back is lost.
func (n *Network) Reset() {
	n.mu.Lock()
	conns := make([]*conduit, 0, len(n.mu.conns))
	for c := range n.mu.conns {
		conns = append(conns, c)
	}
	n.mu.Unlock()
	for _, c := range conns {
		c.close()
	}
}

func (n *Network) change(from, to int, fn func(*rule)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := direction{from, to}
	r := n.mu.rules[d]
	fn(&r)
	n.mu.rules[d] = r
	close(n.mu.changed)
	n.mu.changed = make(chan struct{})
}

func (n *Network) rule(d direction) (rule, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.rules[d], n.mu.changed
}

// arrival is when bytes that are sent now arrive, apart from cuts.
func (n *Network) arrival(d direction) time.Time {
	r, _ := n.rule(d)
	at := time.Now().Add(r.delay)
	if r.jitter > 0 {
		at = at.Add(rand.N(r.jitter))
	}
	if r.loss > 0 && rand.Float64() < r.loss {
		at = at.Add(retransmission)
	}
	return at
}

func (n *Network) close() {
	n.mu.Lock()
	n.mu.closed = true
	n.mu.Unlock()
	for _, p := range n.proxies {
		p.listener.Close()
	}
	n.Reset()
}

// listen opens the proxy of a member, in front of the address where it really listens.
func (n *Network) listen(member int, front, behind string) error {
	l, err := net.Listen("tcp", front)
	if err != nil {
		return fmt.Errorf("opening the network in front of member %d: %w", member, err)
	}
	p := &proxy{network: n, member: member, listener: l, behind: behind}
	n.proxies = append(n.proxies, p)
	go p.serve()
	return nil
}

// proxy takes the connections to one member.
type proxy struct {
	network  *Network
	member   int
	listener net.Listener
	behind   string
}

func (p *proxy) serve() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.connect(in)
	}
}

func (p *proxy) connect(in net.Conn) {
	from, ok := p.network.caller(in)
	if !ok {
		in.Close()
		return
	}
	out, err := net.DialTimeout("tcp", p.behind, time.Second)
	if err != nil {
		in.Close()
		return
	}
	c := &conduit{network: p.network, in: in, out: out, done: make(chan struct{})}
	n := p.network
	n.mu.Lock()
	if n.mu.closed {
		n.mu.Unlock()
		in.Close()
		out.Close()
		return
	}
	n.mu.conns[c] = struct{}{}
	n.mu.Unlock()
	go c.pump(in, out, direction{from, p.member})
	go c.pump(out, in, direction{p.member, from})
}

// caller finds the member that opened a connection, by the process that holds its other end.
func (n *Network) caller(conn net.Conn) (member int, ok bool) {
	far, near := conn.RemoteAddr().(*net.TCPAddr), conn.LocalAddr().(*net.TCPAddr)
	inode, err := socketInode(far.Port, near.Port)
	if err != nil {
		return 0, false
	}
	for i, m := range n.cluster.Members {
		if m.Running() && holdsSocket(m.Pid(), inode) {
			return i, true
		}
	}
	return 0, false
}

// conduit is one connection between two members.
type conduit struct {
	network *Network
	in, out net.Conn
	once    sync.Once
	done    chan struct{}
}

func (c *conduit) close() {
	c.once.Do(func() {
		close(c.done)
		c.in.Close()
		c.out.Close()
		c.network.mu.Lock()
		delete(c.network.mu.conns, c)
		c.network.mu.Unlock()
	})
}

// parcel is what was read at once.
type parcel struct {
	bytes []byte
	at    time.Time
}

// pump carries the bytes of one direction, in order. What is under way is bounded by the queue, as by the buffers of a line.
func (c *conduit) pump(from, to net.Conn, d direction) {
	defer c.close()
	queue := make(chan parcel, 256)
	go func() {
		defer close(queue)
		for {
			b := make([]byte, 16<<10)
			k, err := from.Read(b)
			if err != nil {
				return
			}
			select {
			case queue <- parcel{b[:k], c.network.arrival(d)}:
			case <-c.done:
				return
			}
		}
	}()
	for p := range queue {
		if !c.hold(p.at, d) {
			return
		}
		if _, err := to.Write(p.bytes); err != nil {
			return
		}
	}
}

// hold waits until bytes may arrive; false means that the connection is gone.
func (c *conduit) hold(at time.Time, d direction) bool {
	for {
		r, changed := c.network.rule(d)
		wait := time.Until(at)
		if !r.cut && wait <= 0 {
			return true
		}
		if r.cut {
			select {
			case <-changed:
			case <-c.done:
				return false
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-c.done:
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}
