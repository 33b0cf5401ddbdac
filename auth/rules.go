package auth

import (
	"sync"

	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Rules are what one state of users and roles permits.
type Rules struct {
	state *authstate.State
	// users holds *permissions by name of the user.
	users sync.Map
}

// NewRules returns the rules of a state.
func NewRules(state *authstate.State) *Rules { return &Rules{state: state} }

// Version is that of the state: zero while auth is off.
func (r *Rules) Version() uint64 { return r.state.Version() }

// permissions are what the roles of one user add up to.
type permissions struct {
	root        bool
	read, write ranges
}

// of returns the permissions of a user; nil if there is no such user.
func (r *Rules) of(name string) *permissions {
	if p, ok := r.users.Load(name); ok {
		return p.(*permissions)
	}
	u := r.state.User(name)
	if u == nil {
		return nil
	}
	p, _ := r.users.LoadOrStore(name, r.compile(u))
	return p.(*permissions)
}

func (r *Rules) compile(u *kvdpb.AuthUser) *permissions {
	p := &permissions{root: authstate.HasRole(u, authstate.Root)}
	var read, write []interval
	for _, name := range u.Roles {
		for _, granted := range r.state.Role(name).GetPermissions() {
			i := intervalOf(granted.Key, granted.RangeEnd)
			if granted.Type != kvdpb.AuthPermission_WRITE {
				read = append(read, i)
			}
			if granted.Type != kvdpb.AuthPermission_READ {
				write = append(write, i)
			}
		}
	}
	p.read, p.write = newRanges(read), newRanges(write)
	return p
}

// Caller is who a request comes from, under the rules of one version.
type Caller struct {
	rules *Rules
	name  string
	// revision is the auth revision that the caller's token is good for; zero for
	// a caller without user.
	revision uint64
}

// Named is the caller of a name that was established before, such as that of a
// watch. An empty name is a caller without user.
func (r *Rules) Named(name string) *Caller {
	if name == "" {
		return &Caller{rules: r}
	}
	return &Caller{rules: r, name: name, revision: r.state.Revision()}
}

// Name is the user's; empty for a caller without user.
func (c *Caller) Name() string { return c.name }
