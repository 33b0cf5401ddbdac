package auth

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ownership"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/metadata"
)

// fakePlacement has the truth, and what one member has applied of it.
type fakePlacement struct {
	mu struct {
		sync.Mutex
		truth, local *authstate.State
		cut          bool
		asked        int
	}
}

func newFakePlacement() *fakePlacement {
	f := &fakePlacement{}
	f.mu.truth, f.mu.local = authstate.New(), authstate.New()
	return f
}

func (f *fakePlacement) Auth() *authstate.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.local
}

func (f *fakePlacement) Current(ctx context.Context) (shard.Grant, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.asked++
	if f.mu.cut {
		return shard.Grant{}, errors.New("cut off")
	}
	return shard.Grant{First: 1, Stamp: ownership.Stamp{AuthVersion: f.mu.truth.Version()}}, ctx.Err()
}

func (f *fakePlacement) Barrier(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.cut {
		return errors.New("cut off")
	}
	f.mu.local = f.mu.truth
	return nil
}

func (f *fakePlacement) ChangeAuth(_ context.Context, cmd *kvdpb.AuthCommand) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next, _, err := f.mu.truth.Apply(cmd)
	f.mu.truth = next
	return err
}

// catchUp has the member apply everything.
func (f *fakePlacement) catchUp() { _ = f.Barrier(context.Background()) }

func (f *fakePlacement) setCut(cut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.cut = cut
}

// world is a service on a member, and another member's administrator.
type world struct {
	t *testing.T
	f *fakePlacement
	s *Service
	// id is that of the administrator's next command.
	id uint64
}

func newWorld(t *testing.T, change func(*Config)) *world {
	w := &world{t: t, f: newFakePlacement()}
	cfg := Config{Placement: w.f, Token: "simple", BcryptCost: bcrypt.MinCost, RequestTimeout: time.Second}
	if change != nil {
		change(&cfg)
	}
	var err error
	w.s, err = NewService(cfg)
	require.NoError(t, err)
	t.Cleanup(w.s.Close)
	return w
}

// change changes the truth; the member learns of it by catchUp.
func (w *world) change(c *kvdpb.AuthCommand) {
	w.t.Helper()
	w.id++
	w.f.mu.Lock()
	c.Id, c.Checked = w.id, w.f.mu.truth.Version()
	w.f.mu.Unlock()
	require.NoError(w.t, w.f.ChangeAuth(context.Background(), c))
}

func (w *world) user(name, password string, roles ...string) {
	w.t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	require.NoError(w.t, err)
	w.change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_AddUser{AddUser: &kvdpb.AuthPutUser{Name: name, PasswordHash: hash}}})
	for _, r := range roles {
		w.change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_GrantRole{GrantRole: &kvdpb.AuthGrant{User: name, Role: r}}})
	}
}

func (w *world) role(name string) {
	w.t.Helper()
	w.change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_AddRole{AddRole: &kvdpb.AuthName{Name: name}}})
}

func (w *world) grant(role, key, end string, t kvdpb.AuthPermission_Type) {
	w.t.Helper()
	w.change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_GrantPermission{GrantPermission: &kvdpb.AuthGrantPermission{
		Role: role, Permission: &kvdpb.AuthPermission{Type: t, Key: []byte(key), RangeEnd: []byte(end)}}}})
}

func (w *world) revoke(role, key, end string) {
	w.t.Helper()
	w.change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_RevokePermission{RevokePermission: &kvdpb.AuthGrantPermission{
		Role: role, Permission: &kvdpb.AuthPermission{Key: []byte(key), RangeEnd: []byte(end)}}}})
}

func (w *world) turn(on bool) {
	w.t.Helper()
	secret := make([]byte, authstate.SecretBytes)
	secret[0] = byte(w.id)
	w.change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_Switch{Switch: &kvdpb.AuthSwitch{On: on, Secret: secret}}})
}

// usual has root, and alice with role r that may read and write k.
func (w *world) usual() {
	w.t.Helper()
	w.user("root", "rootpw", "root")
	w.role("r")
	w.grant("r", "k", "", kvdpb.AuthPermission_READWRITE)
	w.user("alice", "alicepw", "r")
	w.turn(true)
	w.f.catchUp()
	w.s.Changed()
}

func (w *world) token(user, password string) context.Context {
	w.t.Helper()
	token, err := w.s.Authenticate(context.Background(), user, password)
	require.NoError(w.t, err)
	return withToken(token)
}

func withToken(token string) context.Context {
	return metadata.NewIncomingContext(context.Background(), metadata.Pairs("token", token))
}
