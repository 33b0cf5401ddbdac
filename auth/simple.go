package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/placement/authstate"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	macBytes   = 16
	nonceBytes = 8
	// maxInUse bounds the tokens whose use is remembered. One that is forgotten is
	// good for its time to live from its issue on.
	maxInUse = 1 << 16
	// extendStep is by how much the end of a token moves at a time.
	extendStep = time.Second
	// maxTokenBytes bounds what is decoded.
	maxTokenBytes = 4096
)

// simpleTokens are signed with a secret that all members hold, so that any of them
// knows a token that another one made, without being told:
//
//	base64url( mac[16] | generation | issued_ms | nonce[8] | user ) "." revision
//
// The secret changes whenever auth is turned on, and a user's generation with its
// password, its deletion and its being added again: tokens of before are void.
//
// A token is good for its time to live from its issue on, by the clocks of the
// members. As in etcd, each use makes it good for as long again on the member
// where it is used; that is remembered in memory.
type simpleTokens struct {
	ttl time.Duration
	now func() time.Time

	mu    sync.RWMutex
	inUse map[string]*simpleToken
}

// simpleToken is a token that was found to be genuine.
type simpleToken struct {
	user       string
	generation uint64
	// secret is the one that signed it.
	secret [authstate.SecretBytes]byte
	// end is when it ends, as nanoseconds of Unix time.
	end atomic.Int64
}

func newSimpleTokens(ttl time.Duration, now func() time.Time) *simpleTokens {
	return &simpleTokens{ttl: ttl, now: now, inUse: map[string]*simpleToken{}}
}

func sign(secret, payload []byte, revision string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("kvd simple token"))
	h.Write(payload)
	h.Write([]byte("." + revision))
	return h.Sum(nil)[:macBytes]
}

func (s *simpleTokens) assign(state *authstate.State, user string) (string, error) {
	u := state.User(user)
	if u == nil || !state.Enabled() {
		return "", rpctypes.ErrGRPCAuthFailed
	}
	payload := binary.AppendUvarint(nil, u.Generation)
	payload = binary.AppendUvarint(payload, uint64(s.now().UnixMilli()))
	var nonce [nonceBytes]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return "", fmt.Errorf("draw a token: %w", err)
	}
	payload = append(append(payload, nonce[:]...), user...)
	revision := strconv.FormatUint(state.Revision(), 10)
	mac := sign(state.Secret(), payload, revision)
	return base64.RawURLEncoding.EncodeToString(append(mac, payload...)) + "." + revision, nil
}

func (s *simpleTokens) user(state *authstate.State, token string) (string, uint64, bool) {
	now := s.now()
	s.mu.RLock()
	t := s.inUse[token]
	s.mu.RUnlock()
	if t == nil || string(t.secret[:]) != string(state.Secret()) {
		if t = s.verify(state, token, now); t == nil {
			return "", 0, false
		}
		s.remember(token, t, now)
	}
	u := state.User(t.user)
	if u == nil || u.Generation != t.generation {
		return "", 0, false
	}
	end := t.end.Load()
	if now.UnixNano() >= end {
		return "", 0, false
	}
	if next := now.Add(s.ttl).UnixNano(); next >= end+int64(extendStep) {
		t.end.CompareAndSwap(end, next)
	}
	return t.user, state.Revision(), true
}

// verify returns what a token says; nil if it is not genuine.
func (s *simpleTokens) verify(state *authstate.State, token string, now time.Time) *simpleToken {
	if len(token) > maxTokenBytes || len(state.Secret()) != authstate.SecretBytes {
		return nil
	}
	prefix, revision, ok := strings.Cut(token, ".")
	if !ok {
		return nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(prefix)
	if err != nil || len(b) < macBytes {
		return nil
	}
	mac, payload := b[:macBytes], b[macBytes:]
	if !hmac.Equal(mac, sign(state.Secret(), payload, revision)) {
		return nil
	}
	generation, n := binary.Uvarint(payload)
	if n <= 0 {
		return nil
	}
	issued, m := binary.Uvarint(payload[n:])
	if m <= 0 || len(payload) < n+m+nonceBytes {
		return nil
	}
	t := &simpleToken{user: string(payload[n+m+nonceBytes:]), generation: generation}
	copy(t.secret[:], state.Secret())
	// A clock that is behind the issuer's must not make a token last longer.
	t.end.Store(min(time.UnixMilli(int64(issued)).Add(s.ttl).UnixNano(), now.Add(s.ttl).UnixNano()))
	return t
}

func (s *simpleTokens) remember(token string, t *simpleToken, now time.Time) {
	if now.UnixNano() >= t.end.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.inUse) >= maxInUse {
		s.sweepLocked(now)
	}
	for old := range s.inUse {
		if len(s.inUse) < maxInUse {
			break
		}
		delete(s.inUse, old)
	}
	s.inUse[token] = t
}

func (s *simpleTokens) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked(s.now())
}

func (s *simpleTokens) sweepLocked(now time.Time) {
	for token, t := range s.inUse {
		if now.UnixNano() >= t.end.Load() {
			delete(s.inUse, token)
		}
	}
}
