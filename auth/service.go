package auth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
)

const (
	// newsLimit is how long ago this member may have heard that its rules are the
	// present ones, for serializable reads and watches.
	newsLimit = 3 * time.Second
	// newsEvery is how often it asks, while auth is on.
	newsEvery = time.Second
	// sweepEvery is how often ended tokens are forgotten.
	sweepEvery = time.Minute
	// recheckFirst and recheckMost are how long a request waits for newer rules
	// before it is checked again, if it hears of none.
	recheckFirst = time.Millisecond
	recheckMost  = 50 * time.Millisecond
	// offPatience is how long a confirmation may take while auth is off as far as
	// is known here. A member that reaches no sequencer then goes on.
	offPatience = 500 * time.Millisecond
)

// Placement is what a Service needs of the placement node.
type Placement interface {
	// Auth is the state as this member has applied it.
	Auth() *authstate.State
	// Current is the sequencer's: its stamp tells the present auth version.
	Current(ctx context.Context) (shard.Grant, error)
	// Barrier returns once every change that had finished is applied here.
	Barrier(ctx context.Context) error
	// ChangeAuth has a change applied; see placement.Node.
	ChangeAuth(ctx context.Context, cmd *kvdpb.AuthCommand) error
}

// Config is what a Service is made of.
type Config struct {
	Placement Placement
	// Token is --auth-token, TokenTTL --auth-token-ttl: 5 minutes if zero.
	Token    string
	TokenTTL time.Duration
	// BcryptCost is --bcrypt-cost: 10 if zero.
	BcryptCost int
	// ClientCertAuth: without a token, the common name of a client's certificate
	// names the user.
	ClientCertAuth bool
	// RequestTimeout bounds how long a request is checked again and again.
	RequestTimeout time.Duration
	Logger         *zap.Logger
	// Now is the clock of tokens and news, time.Now if nil.
	Now func() time.Time
}

func (c *Config) fill() error {
	if c.Placement == nil {
		return errors.New("auth: Placement is needed")
	}
	if c.TokenTTL <= 0 {
		c.TokenTTL = 5 * time.Minute
	}
	if c.BcryptCost == 0 {
		c.BcryptCost = 10
	}
	if c.RequestTimeout <= 0 {
		c.RequestTimeout = 7 * time.Second
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Service checks the requests of one member. It is safe for concurrent use.
type Service struct {
	cfg    Config
	log    *zap.Logger
	tokens tokens
	hasher *hasher
	// known are the rules of the last state that was looked at.
	known atomic.Pointer[Rules]
	// keys tells which keys are attached to a lease, nil if nothing does.
	keys atomic.Pointer[LeaseKeys]

	mu struct {
		sync.Mutex
		// changed is closed and replaced when there may be newer rules.
		changed chan struct{}
		// news is when it was last asked whether the rules are the present ones, of
		// those times that they were.
		news time.Time
		// on is whether auth was on when last looked.
		on bool
	}

	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

// LeaseKeys tells which keys are attached to a lease; none for a lease that does
// not exist.
type LeaseKeys func(ctx context.Context, lease int64) ([][]byte, error)

// NewService makes a service, which must be closed. Changed must be called
// whenever Placement.Auth answers another state.
func NewService(cfg Config) (*Service, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, log: cfg.Logger, stop: make(chan struct{})}
	var err error
	if s.tokens, err = newTokens(cfg.Token, cfg.TokenTTL, cfg.Now, cfg.Logger); err != nil {
		return nil, err
	}
	if s.hasher, err = newHasher(cfg.BcryptCost); err != nil {
		return nil, fmt.Errorf("auth: --bcrypt-cost: %w", err)
	}
	s.mu.changed = make(chan struct{})
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.run()
	}()
	return s, nil
}

// Close ends what the service does in the background.
func (s *Service) Close() {
	s.once.Do(func() { close(s.stop) })
	s.wg.Wait()
}

// SetLeaseKeys tells how to find the keys of a lease.
func (s *Service) SetLeaseKeys(f LeaseKeys) { s.keys.Store(&f) }

// Off tells whether auth is off, as far as this member knows.
func (s *Service) Off() bool { return !s.cfg.Placement.Auth().Enabled() }

// Rules are those of the state that this member has applied.
func (s *Service) Rules() *Rules {
	state := s.cfg.Placement.Auth()
	r := s.known.Load()
	if r != nil && r.state == state {
		return r
	}
	next := NewRules(state)
	// Whoever is slower must not put back older rules; that would only cost time.
	s.known.CompareAndSwap(r, next)
	return next
}

// Changed tells that there may be newer rules.
func (s *Service) Changed() {
	on := !s.Off()
	s.mu.Lock()
	defer s.mu.Unlock()
	if on && !s.mu.on {
		// That auth is on was heard just now.
		s.mu.news = s.cfg.Now()
	}
	s.mu.on = on
	close(s.mu.changed)
	s.mu.changed = make(chan struct{})
}

// News returns a channel that is closed when there may be newer rules. Take it
// before looking at them.
func (s *Service) News() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.changed
}

// Check answers etcd's error if a caller may not do something.
type Check func(c *Caller) error

// Run carries out a request of a client: check says whether it is permitted, do
// carries it out. do must pass its context on to whoever compares versions; where
// it ends in shard.ErrOldAuth, the request is checked and carried out anew.
func (s *Service) Run(ctx context.Context, check Check, do func(ctx context.Context) error) error {
	return s.carryOut(ctx, check, do, false)
}

// RunConfirmed is Run for what does not reach anybody who compares versions: the
// version is compared with the sequencer's before do is called.
func (s *Service) RunConfirmed(ctx context.Context, check Check, do func(ctx context.Context) error) error {
	return s.carryOut(ctx, check, do, true)
}

func (s *Service) carryOut(ctx context.Context, check Check, do func(ctx context.Context) error, confirm bool) error {
	until := s.cfg.Now().Add(s.cfg.RequestTimeout)
	for wait := recheckFirst; ; wait = min(2*wait, recheckMost) {
		changed := s.News()
		rules := s.Rules()
		err := s.permit(ctx, rules, check)
		current := true
		if err != nil || confirm {
			var cerr error
			if current, cerr = s.confirm(ctx, rules); cerr != nil {
				return cerr
			}
		}
		if current {
			if err != nil {
				return err
			}
			marked := ctx
			if v := rules.Version(); v != 0 {
				marked = withVersion(ctx, v)
			}
			if err = do(marked); !IsOld(err) {
				return err
			}
		}
		if s.cfg.Now().After(until) {
			return rpctypes.ErrGRPCTimeout
		}
		if err := s.await(ctx, changed, wait); err != nil {
			return err
		}
	}
}

// permit checks a request under some rules.
func (s *Service) permit(ctx context.Context, rules *Rules, check Check) error {
	if rules.Version() == 0 {
		return nil
	}
	c, err := s.caller(ctx, rules)
	if err != nil {
		return err
	}
	return check(c)
}

// await waits for newer rules, not for ever.
func (s *Service) await(ctx context.Context, changed <-chan struct{}, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-s.stop:
		return rpctypes.ErrGRPCStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// confirm tells whether some rules are the present ones. While auth is off, as
// far as is known here, a member that reaches no sequencer takes that for true.
func (s *Service) confirm(ctx context.Context, rules *Rules) (current bool, err error) {
	patience := s.cfg.RequestTimeout
	if rules.Version() == 0 {
		patience = offPatience
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	asked := s.cfg.Now()
	g, err := s.cfg.Placement.Current(wait)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return false, ctx.Err()
	case rules.Version() == 0:
		return true, nil
	default:
		return false, rpctypes.ErrGRPCTimeout
	}
	if g.Stamp.AuthVersion != rules.Version() {
		return false, nil
	}
	s.heard(asked)
	return true, nil
}

// heard notes that the rules were the present ones at some time.
func (s *Service) heard(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(s.mu.news) {
		s.mu.news = at
	}
}

// Fresh answers an error if what asks nobody must not be served: auth is on, and
// whether the rules are the present ones has not been heard for too long.
func (s *Service) Fresh() error {
	if s.Off() {
		return nil
	}
	s.mu.Lock()
	age := s.cfg.Now().Sub(s.mu.news)
	s.mu.Unlock()
	if age > newsLimit {
		return rpctypes.ErrGRPCNoLeader
	}
	return nil
}

// run asks for news while auth is on, and forgets ended tokens.
func (s *Service) run() {
	ask, sweep := time.NewTicker(newsEvery), time.NewTicker(sweepEvery)
	defer ask.Stop()
	defer sweep.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-s.stop
		cancel()
	}()
	for {
		changed := s.News()
		if !s.Off() {
			wait, cancel := context.WithTimeout(ctx, newsEvery)
			// Without an answer there are no news: Fresh tells.
			_, _ = s.confirm(wait, s.Rules())
			cancel()
		}
		select {
		case <-s.stop:
			return
		case <-ask.C:
		case <-changed:
		case <-sweep.C:
			s.tokens.sweep()
		}
	}
}

// Stats is what the service tells of itself.
type Stats struct {
	// Revision is the auth revision that this member has applied.
	Revision uint64
	Enabled  bool
}

// Stats returns what there is for metrics.
func (s *Service) Stats() Stats {
	state := s.cfg.Placement.Auth()
	return Stats{Revision: state.Revision(), Enabled: state.Enabled()}
}
