package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kvd-io/kvd/placement/authstate"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
)

// Errors of --auth-token; their texts are etcd's.
var (
	ErrInvalidAuthOpts   = errors.New("auth: invalid auth options")
	ErrInvalidAuthMethod = errors.New("auth: invalid auth signature method")
	ErrMissingKey        = errors.New("auth: missing key data")
	ErrKeyMismatch       = errors.New("auth: public and private keys don't match")
	ErrVerifyOnly        = errors.New("auth: token signing attempted with verify-only key")
)

// tokens makes and knows tokens of one kind.
type tokens interface {
	// assign makes a token for a user of the state.
	assign(state *authstate.State, user string) (string, error)
	// user tells whose token it is, and the auth revision that it is good for. ok is
	// false for a token that is not known or not good any more.
	user(state *authstate.State, token string) (name string, revision uint64, ok bool)
	// sweep forgets what is not needed any more.
	sweep()
}

// newTokens makes what --auth-token says. ttl is that of simple tokens.
func newTokens(option string, ttl time.Duration, now func() time.Time, log *zap.Logger) (tokens, error) {
	kind, options, err := decompose(option)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "simple":
		if len(options) > 0 {
			log.Warn("options of simple tokens have no effect", zap.Int("options", len(options)))
		}
		return newSimpleTokens(ttl, now), nil
	case "jwt":
		return newJWT(options, now, log)
	case "":
		return noTokens{}, nil
	}
	return nil, fmt.Errorf("%w: --auth-token of type %q", ErrInvalidAuthOpts, kind)
}

// CheckTokenOption tells what is wrong with a value of --auth-token. It reads the
// key files that the value names.
func CheckTokenOption(option string) error {
	_, err := newTokens(option, time.Second, time.Now, zap.NewNop())
	return err
}

// decompose splits "kind,option=value,...".
func decompose(s string) (kind string, options map[string]string, err error) {
	parts := strings.Split(s, ",")
	options = map[string]string{}
	for _, part := range parts[1:] {
		name, value, ok := strings.Cut(part, "=")
		if _, twice := options[name]; !ok || twice || strings.Contains(value, "=") {
			return "", nil, fmt.Errorf("%w: --auth-token: option %q is malformed or stands there twice", ErrInvalidAuthOpts, name)
		}
		options[name] = value
	}
	return parts[0], options, nil
}

// noTokens is --auth-token="": nobody gets one.
type noTokens struct{}

func (noTokens) assign(*authstate.State, string) (string, error) {
	return "", rpctypes.ErrGRPCAuthFailed
}

func (noTokens) user(*authstate.State, string) (string, uint64, bool) { return "", 0, false }

func (noTokens) sweep() {}

// fingerprint stands for a token in the log.
func fingerprint(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:6])
}
