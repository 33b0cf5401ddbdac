package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

func read(c *Caller) error { return c.Read([]byte("k"), nil) }

// ask runs a request as the owner of a shard would carry it out: it compares the
// version with the truth. It returns the version that it was carried out under.
func (w *world) ask(ctx context.Context, check Check) (version uint64, err error) {
	err = w.s.Run(ctx, check, func(ctx context.Context) error {
		version = Version(ctx)
		g, _ := w.f.Current(ctx)
		if version != g.Stamp.AuthVersion {
			return shard.ErrOldAuth
		}
		return nil
	})
	return version, err
}

// TestOldRulesNeitherPermitNorRefuse: a member that has not heard of a change
// answers no request by what was before.
func TestOldRulesNeitherPermitNorRefuse(t *testing.T) {
	w := newWorld(t, nil)
	w.usual()
	alice := w.token("alice", "alicepw")
	_, err := w.ask(alice, read)
	require.NoError(t, err)

	w.revoke("r", "k", "")
	time.AfterFunc(20*time.Millisecond, func() { w.f.catchUp(); w.s.Changed() })
	_, err = w.ask(alice, read)
	require.Equal(t, rpctypes.ErrGRPCPermissionDenied, err)

	w.grant("r", "k", "", kvdpb.AuthPermission_READ)
	time.AfterFunc(20*time.Millisecond, func() { w.f.catchUp(); w.s.Changed() })
	v, err := w.ask(alice, read)
	require.NoError(t, err)
	require.Equal(t, w.f.Auth().Version(), v)

	// One that never hears of it says that, and nothing else.
	w.revoke("r", "k", "")
	_, err = w.ask(alice, read)
	require.Equal(t, rpctypes.ErrGRPCTimeout, err)
}

// TestTurningOnIsInForceAtOnce: also for a member that still takes auth for off.
func TestTurningOnIsInForceAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.ask(context.Background(), read)
	require.NoError(t, err)
	w.user("root", "rootpw", "root")
	w.turn(true)
	require.True(t, w.s.Off())
	time.AfterFunc(20*time.Millisecond, func() { w.f.catchUp(); w.s.Changed() })
	_, err = w.ask(context.Background(), read)
	require.Equal(t, rpctypes.ErrGRPCUserEmpty, err)
	// What asks no sequencer by itself has it asked.
	w.turn(false)
	w.f.catchUp()
	w.turn(true)
	time.AfterFunc(20*time.Millisecond, func() { w.f.catchUp(); w.s.Changed() })
	err = w.s.RunConfirmed(context.Background(), (*Caller).Root, func(context.Context) error { return nil })
	require.Equal(t, rpctypes.ErrGRPCUserEmpty, err)
}

func TestAuthOffAsksNobody(t *testing.T) {
	w := newWorld(t, nil)
	require.NoError(t, w.s.Run(context.Background(), (*Caller).Root, func(context.Context) error { return nil }))
	require.Zero(t, w.f.mu.asked)
	// And a member that reaches nobody still does what needs nobody.
	w.f.setCut(true)
	require.NoError(t, w.s.RunConfirmed(context.Background(), (*Caller).Root, func(context.Context) error { return nil }))
}

// TestNews: what asks nobody is served only for a while after the last news.
func TestNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		defer w.s.Close()
		require.NoError(t, w.s.Fresh())
		w.usual()
		require.NoError(t, w.s.Fresh())
		time.Sleep(time.Minute)
		require.NoError(t, w.s.Fresh(), "news come by themselves")
		w.f.setCut(true)
		time.Sleep(newsLimit - newsEvery)
		require.NoError(t, w.s.Fresh())
		time.Sleep(2 * newsEvery)
		require.Equal(t, rpctypes.ErrGRPCNoLeader, w.s.Fresh())
		w.f.setCut(false)
		time.Sleep(2 * newsEvery)
		require.NoError(t, w.s.Fresh())
		// Behind is as bad as cut off.
		w.revoke("r", "k", "")
		time.Sleep(newsLimit + 2*newsEvery)
		require.Equal(t, rpctypes.ErrGRPCNoLeader, w.s.Fresh())
	})
}

func TestAuthenticate(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.s.Authenticate(context.Background(), "alice", "alicepw")
	require.Equal(t, rpctypes.ErrGRPCAuthNotEnabled, err)
	w.usual()
	w.change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_AddUser{AddUser: &kvdpb.AuthPutUser{Name: "nopw", NoPassword: true}}})
	for _, c := range []struct{ user, password string }{{"alice", "wrong"}, {"alice", ""}, {"nobody", "x"}, {"nopw", ""}, {"nopw", "decoy"}} {
		_, err = w.s.Authenticate(context.Background(), c.user, c.password)
		require.Equal(t, rpctypes.ErrGRPCAuthFailed, err, "%v", c)
	}
	_, err = w.ask(w.token("alice", "alicepw"), read)
	require.NoError(t, err)
}

// TestPasswordsBlockNobody: while as many passwords as can be are compared, other
// requests go on, and more of them are refused.
func TestPasswordsBlockNobody(t *testing.T) {
	w := newWorld(t, nil)
	w.usual()
	alice := w.token("alice", "alicepw")
	for range cap(w.s.hasher.turns) {
		w.s.hasher.turns <- struct{}{}
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	for range maxPasswords {
		wg.Add(1)
		go func() { defer wg.Done(); _, _ = w.s.hasher.fits(ctx, nil, "x") }()
	}
	require.Eventually(t, func() bool { return len(w.s.hasher.waiting) == maxPasswords }, 10*time.Second, time.Millisecond)
	_, err := w.ask(alice, read)
	require.NoError(t, err)
	_, err = w.s.Authenticate(context.Background(), "alice", "alicepw")
	require.Equal(t, rpctypes.ErrGRPCRequestTooManyRequests, err)
	cancel()
	wg.Wait()
}

func TestAdministration(t *testing.T) {
	w := newWorld(t, nil)
	w.usual()
	root, alice := w.token("root", "rootpw"), w.token("alice", "alicepw")
	add := &pb.AuthUserAddRequest{Name: "bob", Password: "bobpw"}
	require.Equal(t, rpctypes.ErrGRPCPermissionDenied, w.s.AddUser(alice, add))
	require.Equal(t, rpctypes.ErrGRPCUserEmpty, w.s.AddUser(context.Background(), add))
	require.NoError(t, w.s.AddUser(root, add))
	w.f.catchUp()
	require.Equal(t, rpctypes.ErrGRPCUserAlreadyExist, w.s.AddUser(root, add))
	w.token("bob", "bobpw")
	require.NoError(t, w.s.ChangePassword(root, &pb.AuthUserChangePasswordRequest{Name: "bob", Password: "other"}))
	_, err := w.s.Authenticate(context.Background(), "bob", "bobpw")
	require.Equal(t, rpctypes.ErrGRPCAuthFailed, err)
	bob := w.token("bob", "other")
	require.Error(t, w.s.AddUser(root, &pb.AuthUserAddRequest{Name: "long", Password: string(make([]byte, 73))}))

	seen := func(ctx context.Context, check Check) error {
		return w.s.Look(ctx, check, func(*authstate.State) error { return nil })
	}
	require.NoError(t, seen(bob, func(c *Caller) error { return c.Self("bob") }))
	require.Equal(t, rpctypes.ErrGRPCPermissionDenied, seen(bob, func(c *Caller) error { return c.Self("alice") }))
	require.NoError(t, seen(alice, func(c *Caller) error { return c.Has("r") }))
	require.Equal(t, rpctypes.ErrGRPCPermissionDenied, seen(bob, func(c *Caller) error { return c.Has("r") }))
	require.NoError(t, w.s.Turn(root, false))
	w.f.catchUp()
	require.True(t, w.s.Off())
	require.NoError(t, w.s.Turn(context.Background(), true))
}

func TestCommonName(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.ClientCertAuth = true })
	w.usual()
	chain := []*x509.Certificate{{Subject: pkix.Name{CommonName: "alice"}}}
	ctx := peer.NewContext(context.Background(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{chain}}}})
	_, err := w.ask(ctx, read)
	require.NoError(t, err)
	_, err = w.ask(ctx, (*Caller).Root)
	require.Equal(t, rpctypes.ErrGRPCPermissionDenied, err)
	// A token goes before the name, and the gateway's own certificate names nobody.
	_, err = w.ask(metadata.NewIncomingContext(ctx, metadata.Pairs("token", "wrong.1")), read)
	require.Equal(t, rpctypes.ErrGRPCInvalidAuthToken, err)
	_, err = w.ask(metadata.NewIncomingContext(ctx, metadata.Pairs(gatewayMark, "*/*")), read)
	require.Equal(t, rpctypes.ErrGRPCUserEmpty, err)

	off := newWorld(t, nil)
	off.usual()
	_, err = off.ask(ctx, read)
	require.Equal(t, rpctypes.ErrGRPCUserEmpty, err)
}

func TestTokenHeaders(t *testing.T) {
	w := newWorld(t, nil)
	w.usual()
	token, err := w.s.Authenticate(context.Background(), "alice", "alicepw")
	require.NoError(t, err)
	for _, md := range []metadata.MD{
		metadata.Pairs("token", token), metadata.Pairs("authorization", token), metadata.Pairs("authorization", "Bearer "+token),
	} {
		_, err := w.ask(metadata.NewIncomingContext(context.Background(), md), read)
		require.NoError(t, err, "%v", md)
	}
}
