package authstate

import (
	"fmt"
	"maps"
	"slices"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// Root is the name of the user that auth cannot be on without, and of the role
	// that may do everything.
	Root = "root"
	// SecretBytes is the size of the secret that signs simple tokens.
	SecretBytes = 32
	// firstRevision is the auth revision of a new cluster, as in etcd.
	firstRevision = 1
	// maxRecent bounds the outcomes that are remembered.
	maxRecent = 64
)

// State is the state of auth. It is immutable, with everything that it returns.
type State struct {
	enabled  bool
	revision uint64
	secret   []byte
	users    map[string]*kvdpb.AuthUser
	roles    map[string]*kvdpb.AuthRole
	recent   []*kvdpb.AuthOutcome
}

var empty = &State{revision: firstRevision}

// New returns the state of a new cluster: no users, no roles, auth off.
func New() *State { return empty }

// Enabled tells whether auth is on.
func (s *State) Enabled() bool { return s.enabled }

// Revision is etcd's auth revision.
func (s *State) Revision() uint64 { return s.revision }

// Version is zero while auth is off, and else the revision.
func (s *State) Version() uint64 {
	if !s.enabled {
		return 0
	}
	return s.revision
}

// Secret signs the simple tokens. It must not be shown anywhere.
func (s *State) Secret() []byte { return s.secret }

// User returns a user; nil if there is none.
func (s *State) User(name string) *kvdpb.AuthUser { return s.users[name] }

// Role returns a role; nil if there is none.
func (s *State) Role(name string) *kvdpb.AuthRole { return s.roles[name] }

// Users returns the names of all users, sorted.
func (s *State) Users() []string { return slices.Sorted(maps.Keys(s.users)) }

// Roles returns the names of all roles, sorted.
func (s *State) Roles() []string { return slices.Sorted(maps.Keys(s.roles)) }

// Proto returns the state as a message, in an order that depends on nothing but
// the state. Users and roles in it are shared.
func (s *State) Proto() *kvdpb.AuthState {
	p := s.Meta()
	for _, name := range s.Users() {
		p.Users = append(p.Users, s.users[name])
	}
	for _, name := range s.Roles() {
		p.Roles = append(p.Roles, s.roles[name])
	}
	return p
}

// Meta is the state without users and roles.
func (s *State) Meta() *kvdpb.AuthState {
	return &kvdpb.AuthState{Enabled: s.enabled, Revision: s.revision, Secret: s.secret, Recent: s.recent}
}

// FromProto makes a state of its message, which it takes over. It refuses one
// that no sequence of commands leads to. No message is a new cluster's.
func FromProto(p *kvdpb.AuthState) (*State, error) {
	if p == nil || p.Revision == 0 {
		if len(p.GetUsers())+len(p.GetRoles()) > 0 || p.GetEnabled() {
			return nil, fmt.Errorf("auth state of revision 0 with users or roles")
		}
		return New(), nil
	}
	s := &State{
		enabled: p.Enabled, revision: p.Revision, secret: p.Secret, recent: p.Recent,
		users: make(map[string]*kvdpb.AuthUser, len(p.Users)), roles: make(map[string]*kvdpb.AuthRole, len(p.Roles)),
	}
	for _, u := range p.Users {
		if u.GetName() == "" || s.users[u.Name] != nil {
			return nil, fmt.Errorf("auth state with a user %q that has no name or stands there twice", u.GetName())
		}
		s.users[u.Name] = u
	}
	for _, r := range p.Roles {
		if r.GetName() == "" || s.roles[r.Name] != nil {
			return nil, fmt.Errorf("auth state with a role %q that has no name or stands there twice", r.GetName())
		}
		s.roles[r.Name] = r
	}
	if s.enabled && (s.checkRoot() != nil || len(s.secret) < SecretBytes) {
		return nil, fmt.Errorf("auth is on without a root user or without a secret")
	}
	return s, nil
}

// checkRoot tells whether there is somebody who could turn auth off again.
func (s *State) checkRoot() error {
	u := s.users[Root]
	switch {
	case u == nil:
		return rpctypes.ErrGRPCRootUserNotExist
	case !HasRole(u, Root):
		return rpctypes.ErrGRPCRootRoleNotExist
	}
	return nil
}

// HasRole tells whether a user has a role.
func HasRole(u *kvdpb.AuthUser, role string) bool {
	_, ok := slices.BinarySearch(u.GetRoles(), role)
	return ok
}
