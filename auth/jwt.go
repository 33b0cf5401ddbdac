package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/kvd-io/kvd/placement/authstate"
	"go.uber.org/zap"
)

// defaultJWTTTL is how long a JSON web token is good where no ttl is given, as in
// etcd.
const defaultJWTTTL = 5 * time.Minute

// jwtTokens are JSON web tokens with etcd's claims: username, revision, exp. One
// is good for the auth revision that it was made at; clients get a new one after
// each change.
type jwtTokens struct {
	method jwt.SigningMethod
	// private is nil where only the public key was given: such a member knows
	// tokens and makes none.
	private, public any
	ttl             time.Duration
	now             func() time.Time
	parser          *jwt.Parser
}

func newJWT(options map[string]string, now func() time.Time, log *zap.Logger) (*jwtTokens, error) {
	t := &jwtTokens{ttl: defaultJWTTTL, now: now}
	var private, public []byte
	for _, name := range slices.Sorted(maps.Keys(options)) {
		value := options[name]
		var err error
		switch name {
		case "ttl":
			if value != "" {
				t.ttl, err = time.ParseDuration(value)
			}
		case "pub-key":
			public, err = readKey(value)
		case "priv-key":
			private, err = readKey(value)
		case "sign-method":
		default:
			log.Warn("unknown JWT options", zap.Strings("keys", []string{name}))
		}
		if err != nil {
			return nil, fmt.Errorf("%w: --auth-token: %s: %w", ErrInvalidAuthOpts, name, err)
		}
	}
	if t.method = jwt.GetSigningMethod(options["sign-method"]); t.method == nil {
		return nil, fmt.Errorf("%w: --auth-token: sign-method %q: %w", ErrInvalidAuthOpts, options["sign-method"], ErrInvalidAuthMethod)
	}
	if err := t.loadKeys(private, public); err != nil {
		return nil, fmt.Errorf("--auth-token: keys of %s: %w", t.method.Alg(), err)
	}
	t.parser = jwt.NewParser(jwt.WithValidMethods([]string{t.method.Alg()}), jwt.WithTimeFunc(now))
	return t, nil
}

func readKey(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	return os.ReadFile(path)
}

// loadKeys parses the keys as the method wants them. With both, they must belong
// together.
func (t *jwtTokens) loadKeys(private, public []byte) error {
	var err error
	switch t.method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		t.private, t.public, err = keyPair(private, public, jwt.ParseRSAPrivateKeyFromPEM, jwt.ParseRSAPublicKeyFromPEM,
			func(k *rsa.PrivateKey) *rsa.PublicKey { return &k.PublicKey })
	case *jwt.SigningMethodECDSA:
		t.private, t.public, err = keyPair(private, public, jwt.ParseECPrivateKeyFromPEM, jwt.ParseECPublicKeyFromPEM,
			func(k *ecdsa.PrivateKey) *ecdsa.PublicKey { return &k.PublicKey })
	case *jwt.SigningMethodEd25519:
		t.private, t.public, err = keyPair(private, public,
			func(b []byte) (ed25519.PrivateKey, error) {
				k, err := jwt.ParseEdPrivateKeyFromPEM(b)
				if err != nil {
					return nil, err
				}
				ed, ok := k.(ed25519.PrivateKey)
				if !ok {
					return nil, jwt.ErrNotEdPrivateKey
				}
				return ed, nil
			},
			func(b []byte) (ed25519.PublicKey, error) {
				k, err := jwt.ParseEdPublicKeyFromPEM(b)
				if err != nil {
					return nil, err
				}
				ed, ok := k.(ed25519.PublicKey)
				if !ok {
					return nil, jwt.ErrNotEdPublicKey
				}
				return ed, nil
			},
			func(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) })
	case *jwt.SigningMethodHMAC:
		if len(private) == 0 {
			return ErrMissingKey
		}
		t.private, t.public = private, private
	default:
		err = fmt.Errorf("unsupported signing method %q", t.method.Alg())
	}
	return err
}

// keyPair parses a private key, a public key, or both.
func keyPair[Private any, Public interface{ Equal(x crypto.PublicKey) bool }](private, public []byte,
	parsePrivate func([]byte) (Private, error), parsePublic func([]byte) (Public, error), publicOf func(Private) Public,
) (priv, pub any, err error) {
	if len(private) == 0 && len(public) == 0 {
		return nil, nil, ErrMissingKey
	}
	var given Public
	if len(public) > 0 {
		if given, err = parsePublic(public); err != nil {
			return nil, nil, fmt.Errorf("pub-key: %w", err)
		}
	}
	if len(private) == 0 {
		return nil, given, nil
	}
	k, err := parsePrivate(private)
	if err != nil {
		return nil, nil, fmt.Errorf("priv-key: %w", err)
	}
	own := publicOf(k)
	if len(public) > 0 && !given.Equal(own) {
		return nil, nil, ErrKeyMismatch
	}
	return k, own, nil
}

func (t *jwtTokens) assign(state *authstate.State, user string) (string, error) {
	if t.private == nil {
		return "", ErrVerifyOnly
	}
	token := jwt.NewWithClaims(t.method, jwt.MapClaims{
		"username": user,
		"revision": state.Revision(),
		"exp":      t.now().Add(t.ttl).Unix(),
	})
	signed, err := token.SignedString(t.private)
	if err != nil {
		// The cause may name parts of the key.
		return "", errors.New("auth: could not sign a token")
	}
	return signed, nil
}

func (t *jwtTokens) user(_ *authstate.State, token string) (string, uint64, bool) {
	if len(token) > maxTokenBytes {
		return "", 0, false
	}
	parsed, err := t.parser.Parse(token, func(*jwt.Token) (any, error) { return t.public, nil })
	if err != nil || !parsed.Valid {
		return "", 0, false
	}
	claims, ok := parsed.Claims.(jwt.MapClaims)
	if !ok {
		return "", 0, false
	}
	name, named := claims["username"].(string)
	revision, numbered := claims["revision"].(float64)
	if !named || !numbered || revision < 0 {
		return "", 0, false
	}
	return name, uint64(revision), true
}

func (t *jwtTokens) sweep() {}
