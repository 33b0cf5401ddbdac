package placement

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// changeAuth applies a change of users and roles. What etcd would refuse is
// remembered as refused, so it too changes the state.
func (s *State) changeAuth(c *kvdpb.AuthCommand) *kvdpb.PlacementResult {
	next, change, err := s.auth.Apply(c)
	if next != s.auth {
		s.auth = next
		s.dirty.auth.note(change)
	}
	if err != nil {
		return reject(kvdpb.PlacementResult_AUTH_REFUSED, "%s", status.Convert(err).Message())
	}
	return applied()
}

// ChangeAuth has a change of users and roles applied. It returns etcd's error if
// the change was refused, rpctypes' ErrGRPCAuthOldRevision if auth had changed
// since the caller was checked. The command's id makes it apply once. When it
// returns, the change is in force for every request that starts after that.
func (n *Node) ChangeAuth(ctx context.Context, cmd *kvdpb.AuthCommand) error {
	res, err := n.Update(ctx, command(cmd))
	var rejected *RejectedError
	if errors.As(err, &rejected) && rejected.Rejection == kvdpb.PlacementResult_AUTH_REFUSED {
		return authstate.Error(res.GetReason())
	}
	return err
}

// Auth returns users and roles as this member has applied them.
func (n *Node) Auth() *authstate.State { return n.View().Auth }

// Names of the records of auth. The name of a user or role follows its kind.
var authName = []byte(recordPrefix + "auth")

const (
	userKind = recordPrefix + "auth/user/"
	roleKind = recordPrefix + "auth/role/"
)

// loadAuth takes in a record of auth. known is false if it is none.
func loadAuth(p *kvdpb.PlacementState, name, value []byte) (known bool, err error) {
	var into proto.Message
	auth := func() *kvdpb.AuthState {
		if p.Auth == nil {
			p.Auth = &kvdpb.AuthState{}
		}
		return p.Auth
	}
	switch text := string(name); {
	case text == string(authName):
		into = auth()
	case strings.HasPrefix(text, userKind):
		u := &kvdpb.AuthUser{}
		auth().Users = append(auth().Users, u)
		into = u
	case strings.HasPrefix(text, roleKind):
		r := &kvdpb.AuthRole{}
		auth().Roles = append(auth().Roles, r)
		into = r
	default:
		return false, nil
	}
	if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(value, into); err != nil {
		return true, fmt.Errorf("record %q: %w", name, err)
	}
	return true, nil
}

// dirtyAuth names the records of auth that changed since they were last taken.
type dirtyAuth struct {
	meta         bool
	users, roles map[string]struct{}
}

func newDirtyAuth() dirtyAuth {
	return dirtyAuth{users: map[string]struct{}{}, roles: map[string]struct{}{}}
}

func (d *dirtyAuth) note(c authstate.Change) {
	d.meta = true
	for _, name := range c.Users {
		d.users[name] = struct{}{}
	}
	for _, name := range c.Roles {
		d.roles[name] = struct{}{}
	}
}

func (d *dirtyAuth) markAll(s *authstate.State) {
	d.note(authstate.Change{Users: s.Users(), Roles: s.Roles()})
}

func (d *dirtyAuth) clear() {
	d.meta = false
	clear(d.users)
	clear(d.roles)
}

// gone returns the names of the records to delete.
func (d *dirtyAuth) gone(s *authstate.State) (names [][]byte) {
	for name := range d.users {
		if s.User(name) == nil {
			names = append(names, []byte(userKind+name))
		}
	}
	for name := range d.roles {
		if s.Role(name) == nil {
			names = append(names, []byte(roleKind+name))
		}
	}
	return names
}

// takeAuth adds the records of auth that changed.
func (s *State) takeAuth(add func(name []byte, m proto.Message) error) error {
	d := &s.dirty.auth
	var errs []error
	if d.meta {
		errs = append(errs, add(authName, s.auth.Meta()))
	}
	for name := range d.users {
		if u := s.auth.User(name); u != nil {
			errs = append(errs, add([]byte(userKind+name), u))
		}
	}
	for name := range d.roles {
		if r := s.auth.Role(name); r != nil {
			errs = append(errs, add([]byte(roleKind+name), r))
		}
	}
	return errors.Join(errs...)
}
