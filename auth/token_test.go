package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// handClock is moved by hand.
type handClock struct{ now time.Time }

func (c *handClock) Now() time.Time { return c.now }

func TestSimpleTokens(t *testing.T) {
	w := newWorld(t, nil)
	w.usual()
	clock := &handClock{now: time.Unix(1000, 0)}
	one, two := newSimpleTokens(time.Minute, clock.Now), newSimpleTokens(time.Minute, clock.Now)
	token, err := one.assign(w.f.Auth(), "alice")
	require.NoError(t, err)
	good := func(s *simpleTokens) bool {
		name, revision, ok := s.user(w.f.Auth(), token)
		if ok {
			require.Equal(t, "alice", name)
			require.Equal(t, w.f.Auth().Revision(), revision)
		}
		return ok
	}
	require.True(t, good(one))
	require.True(t, good(two), "another member knows it at once")
	for i := range token {
		forged := []byte(token)
		forged[i] ^= 1
		_, _, ok := two.user(w.f.Auth(), string(forged))
		require.False(t, ok, "byte %d", i)
	}
	for _, bad := range []string{"", ".", "a.1", token + "0", "0" + token, strings.Repeat("a", maxTokenBytes) + ".1"} {
		_, _, ok := two.user(w.f.Auth(), bad)
		require.False(t, ok, "%q", bad)
	}
	// Use makes it last, where it is used.
	for range 3 {
		clock.now = clock.now.Add(40 * time.Second)
		require.True(t, good(one))
	}
	require.False(t, good(two))
	clock.now = clock.now.Add(time.Minute)
	require.False(t, good(one))
	one.sweep()
	require.Empty(t, one.inUse)

	// Other changes leave tokens alone, a new password ends them.
	token, err = one.assign(w.f.Auth(), "alice")
	require.NoError(t, err)
	w.role("another")
	w.f.catchUp()
	require.True(t, good(one))
	w.change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_ChangePassword{ChangePassword: &kvdpb.AuthPutUser{Name: "alice"}}})
	w.f.catchUp()
	require.False(t, good(one))
	require.False(t, good(two))

	// So does turning auth off and on.
	token, err = one.assign(w.f.Auth(), "alice")
	require.NoError(t, err)
	require.True(t, good(one))
	w.turn(false)
	w.turn(true)
	w.f.catchUp()
	require.False(t, good(one))
	require.False(t, good(two))
	_, err = one.assign(w.f.Auth(), "nobody")
	require.Error(t, err)
}

func TestSimpleTokensAreBounded(t *testing.T) {
	w := newWorld(t, nil)
	w.usual()
	clock := &handClock{now: time.Unix(1000, 0)}
	s := newSimpleTokens(time.Minute, clock.Now)
	for range maxInUse {
		s.inUse[string(rune(len(s.inUse)))+"x"] = &simpleToken{}
	}
	for i := range s.inUse {
		s.inUse[i].end.Store(clock.now.Add(time.Hour).UnixNano())
	}
	token, err := s.assign(w.f.Auth(), "alice")
	require.NoError(t, err)
	_, _, ok := s.user(w.f.Auth(), token)
	require.True(t, ok)
	require.LessOrEqual(t, len(s.inUse), maxInUse)
}

func keyFiles(t *testing.T, kind string) (private, public string) {
	dir := t.TempDir()
	var key, pub any
	var err error
	switch kind {
	case "RS", "PS":
		k, e := rsa.GenerateKey(rand.Reader, 2048)
		key, pub, err = k, &k.PublicKey, e
	case "ES":
		k, e := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		key, pub, err = k, &k.PublicKey, e
	default:
		public, k, e := ed25519.GenerateKey(rand.Reader)
		key, pub, err = k, public, e
	}
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	pubDER, err := x509.MarshalPKIXPublicKey(pub)
	require.NoError(t, err)
	private, public = filepath.Join(dir, "private"), filepath.Join(dir, "public")
	require.NoError(t, os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pubDER}), 0o600))
	return private, public
}

func TestJWT(t *testing.T) {
	w := newWorld(t, nil)
	w.usual()
	state := w.f.Auth()
	clock := &handClock{now: time.Now()}
	make := func(option string) tokens {
		s, err := newTokens(option, 0, clock.Now, zap.NewNop())
		require.NoError(t, err, option)
		return s
	}
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("top secret"), 0o600))
	for _, method := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "EdDSA", "HS256", "HS384", "HS512"} {
		clock.now = time.Now()
		var both, verify tokens
		if strings.HasPrefix(method, "HS") {
			both = make("jwt,priv-key=" + secret + ",sign-method=" + method + ",ttl=1m")
			verify = both
		} else {
			private, public := keyFiles(t, method[:2])
			both = make("jwt,pub-key=" + public + ",priv-key=" + private + ",sign-method=" + method + ",ttl=1m")
			verify = make("jwt,pub-key=" + public + ",sign-method=" + method)
			_, err := verify.assign(state, "alice")
			require.ErrorIs(t, err, ErrVerifyOnly)
			other, _ := keyFiles(t, method[:2])
			_, err = newTokens("jwt,pub-key="+public+",priv-key="+other+",sign-method="+method, 0, clock.Now, zap.NewNop())
			require.ErrorIs(t, err, ErrKeyMismatch)
		}
		token, err := both.assign(state, "alice")
		require.NoError(t, err)
		name, revision, ok := verify.user(state, token)
		require.True(t, ok, method)
		require.Equal(t, "alice", name)
		require.Equal(t, state.Revision(), revision)
		_, _, ok = verify.user(state, token[:len(token)-4]+"AAAA")
		require.False(t, ok)
		clock.now = clock.now.Add(2 * time.Minute)
		_, _, ok = verify.user(state, token)
		require.False(t, ok, "expired")
	}
	// A token without a signature, or by another method, is none.
	s := make("jwt,priv-key=" + secret + ",sign-method=HS256")
	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"username": "root", "revision": 99}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	require.NoError(t, err)
	_, _, ok := s.user(state, unsigned)
	require.False(t, ok)
	for _, claims := range []jwt.MapClaims{{}, {"username": 7, "revision": 1}, {"username": "root"}, {"username": "root", "revision": "1"}, {"username": "root", "revision": -1}} {
		odd, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte("top secret"))
		require.NoError(t, err)
		_, _, ok := s.user(state, odd)
		require.False(t, ok, "%v", claims)
	}
}

func TestTokenOptions(t *testing.T) {
	for _, good := range []string{"simple", "", "simple,x=y"} {
		require.NoError(t, CheckTokenOption(good), good)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("x"), 0o600))
	for option, want := range map[string]error{
		"other": ErrInvalidAuthOpts, "jwt": ErrInvalidAuthOpts, "jwt,sign-method": ErrInvalidAuthOpts,
		"jwt,sign-method=HS256,sign-method=HS256": ErrInvalidAuthOpts, "jwt,sign-method=XX": ErrInvalidAuthMethod,
		"jwt,sign-method=HS256": ErrMissingKey, "jwt,sign-method=RS256": ErrMissingKey,
		"jwt,sign-method=none,priv-key=" + secret:          nil,
		"jwt,sign-method=RS256,priv-key=" + secret:         nil,
		"jwt,sign-method=RS256,pub-key=" + secret:          nil,
		"jwt,sign-method=HS256,priv-key=/none":             os.ErrNotExist,
		"jwt,ttl=x,sign-method=HS256,priv-key=" + secret:   ErrInvalidAuthOpts,
		"jwt,ttl=1=2,sign-method=HS256,priv-key=" + secret: ErrInvalidAuthOpts,
	} {
		err := CheckTokenOption(option)
		require.Error(t, err, option)
		if want != nil {
			require.ErrorIs(t, err, want, option)
		}
	}
}

// FuzzSimpleToken: no bytes of a client are taken for a token, or break anything.
func FuzzSimpleToken(f *testing.F) {
	f.Add("AAAA.1")
	f.Add("a.b.c")
	s := newSimpleTokens(time.Minute, time.Now)
	w := newFakePlacement()
	f.Fuzz(func(t *testing.T, token string) {
		if _, _, ok := s.user(w.Auth(), token); ok {
			t.Fatal("taken for a token")
		}
	})
}
