package authstate

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Change names the users and roles that a command changed, added or deleted.
type Change struct{ Users, Roles []string }

// Apply carries out a command. It returns the state afterwards, which is s itself
// where nothing changed, what changed in it, and etcd's error if the command was
// refused.
func (s *State) Apply(cmd *kvdpb.AuthCommand) (*State, Change, error) {
	for _, o := range s.recent {
		if o.Id == cmd.GetId() {
			return s, Change{}, refusalOf(o)
		}
	}
	e := edit{old: s, next: *s}
	err := e.apply(cmd)
	if err != nil {
		e.next, e.change = *s, Change{}
	} else if e.effective {
		e.next.revision++
	}
	o := &kvdpb.AuthOutcome{Id: cmd.GetId()}
	if err != nil {
		o.Refusal = status.Convert(err).Message()
	}
	keep := s.recent[max(0, len(s.recent)+1-maxRecent):]
	e.next.recent = append(slices.Clone(keep), o)
	return &e.next, e.change, err
}

// refusalOf is the error that an outcome remembers.
func refusalOf(o *kvdpb.AuthOutcome) error {
	if o.Refusal == "" {
		return nil
	}
	return Error(o.Refusal)
}

// Error returns etcd's error of a text, as a client gets it.
func Error(text string) error {
	for _, err := range refusals {
		if status.Convert(err).Message() == text {
			return err
		}
	}
	return status.Error(status.Code(rpctypes.ErrGRPCInvalidAuthMgmt), text)
}

// refusals are all errors that Apply answers.
var refusals = []error{
	rpctypes.ErrGRPCRootUserNotExist, rpctypes.ErrGRPCRootRoleNotExist, rpctypes.ErrGRPCUserAlreadyExist,
	rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCUserNotFound, rpctypes.ErrGRPCRoleAlreadyExist,
	rpctypes.ErrGRPCRoleNotFound, rpctypes.ErrGRPCRoleEmpty, rpctypes.ErrGRPCRoleNotGranted,
	rpctypes.ErrGRPCPermissionNotGiven, rpctypes.ErrGRPCPermissionNotGranted, rpctypes.ErrGRPCInvalidAuthMgmt,
	rpctypes.ErrGRPCAuthOldRevision,
}

// edit is a state in the making. Maps are copied before they are changed.
type edit struct {
	old    *State
	next   State
	change Change
	// effective: the revision rises.
	effective bool
}

func (e *edit) apply(cmd *kvdpb.AuthCommand) error {
	if cmd.GetChecked() != e.old.Version() {
		return rpctypes.ErrGRPCAuthOldRevision
	}
	switch c := cmd.GetChange().(type) {
	case *kvdpb.AuthCommand_Switch:
		return e.turn(c.Switch)
	case *kvdpb.AuthCommand_AddUser:
		return e.addUser(c.AddUser)
	case *kvdpb.AuthCommand_DeleteUser:
		return e.deleteUser(c.DeleteUser.GetName())
	case *kvdpb.AuthCommand_ChangePassword:
		return e.changePassword(c.ChangePassword)
	case *kvdpb.AuthCommand_GrantRole:
		return e.grantRole(c.GrantRole)
	case *kvdpb.AuthCommand_RevokeRole:
		return e.revokeRole(c.RevokeRole)
	case *kvdpb.AuthCommand_AddRole:
		return e.addRole(c.AddRole.GetName())
	case *kvdpb.AuthCommand_DeleteRole:
		return e.deleteRole(c.DeleteRole.GetName())
	case *kvdpb.AuthCommand_GrantPermission:
		return e.grantPermission(c.GrantPermission)
	case *kvdpb.AuthCommand_RevokePermission:
		return e.revokePermission(c.RevokePermission)
	}
	return rpctypes.ErrGRPCInvalidAuthMgmt
}

// turn turns auth on or off. Doing so twice changes nothing, as in etcd. Turning
// it on leaves the revision alone, as in etcd; the version changes.
func (e *edit) turn(c *kvdpb.AuthSwitch) error {
	if c.GetOn() == e.old.enabled {
		return nil
	}
	if !c.GetOn() {
		e.next.enabled, e.next.secret, e.effective = false, nil, true
		return nil
	}
	if err := e.old.checkRoot(); err != nil {
		return err
	}
	if len(c.Secret) < SecretBytes {
		return rpctypes.ErrGRPCInvalidAuthMgmt
	}
	e.next.enabled, e.next.secret = true, c.Secret
	return nil
}

// putUser puts a user into the next state; nil deletes it.
func (e *edit) putUser(name string, u *kvdpb.AuthUser) {
	if len(e.change.Users) == 0 {
		e.next.users = maps.Clone(e.old.users)
		if e.next.users == nil {
			e.next.users = map[string]*kvdpb.AuthUser{}
		}
	}
	if u == nil {
		delete(e.next.users, name)
	} else {
		e.next.users[name] = u
	}
	e.change.Users = append(e.change.Users, name)
	e.effective = true
}

// putRole puts a role into the next state; nil deletes it.
func (e *edit) putRole(name string, r *kvdpb.AuthRole) {
	if len(e.change.Roles) == 0 {
		e.next.roles = maps.Clone(e.old.roles)
		if e.next.roles == nil {
			e.next.roles = map[string]*kvdpb.AuthRole{}
		}
	}
	if r == nil {
		delete(e.next.roles, name)
	} else {
		e.next.roles[name] = r
	}
	e.change.Roles = append(e.change.Roles, name)
	e.effective = true
}

func (e *edit) addUser(c *kvdpb.AuthPutUser) error {
	switch {
	case c.GetName() == "":
		return rpctypes.ErrGRPCUserEmpty
	case e.old.users[c.Name] != nil:
		return rpctypes.ErrGRPCUserAlreadyExist
	}
	u := &kvdpb.AuthUser{Name: c.Name, NoPassword: c.NoPassword, Generation: e.old.revision + 1}
	if !c.NoPassword {
		u.PasswordHash = c.PasswordHash
	}
	e.putUser(c.Name, u)
	return nil
}

func (e *edit) deleteUser(name string) error {
	switch {
	case e.old.enabled && name == Root:
		return rpctypes.ErrGRPCInvalidAuthMgmt
	case e.old.users[name] == nil:
		return rpctypes.ErrGRPCUserNotFound
	}
	e.putUser(name, nil)
	return nil
}

// changePassword gives a user another password, and voids its tokens. A user
// without password stays one, as in etcd.
func (e *edit) changePassword(c *kvdpb.AuthPutUser) error {
	old := e.old.users[c.GetName()]
	if old == nil {
		return rpctypes.ErrGRPCUserNotFound
	}
	u := proto.CloneOf(old)
	u.Generation = e.old.revision + 1
	if !u.NoPassword {
		u.PasswordHash = c.PasswordHash
	}
	e.putUser(u.Name, u)
	return nil
}

func (e *edit) grantRole(c *kvdpb.AuthGrant) error {
	old := e.old.users[c.GetUser()]
	switch {
	case old == nil:
		return rpctypes.ErrGRPCUserNotFound
	case c.Role != Root && e.old.roles[c.Role] == nil:
		return rpctypes.ErrGRPCRoleNotFound
	}
	i, granted := slices.BinarySearch(old.Roles, c.Role)
	if granted {
		return nil
	}
	u := proto.CloneOf(old)
	u.Roles = slices.Insert(u.Roles, i, c.Role)
	e.putUser(u.Name, u)
	return nil
}

func (e *edit) revokeRole(c *kvdpb.AuthGrant) error {
	if e.old.enabled && c.GetUser() == Root && c.GetRole() == Root {
		return rpctypes.ErrGRPCInvalidAuthMgmt
	}
	old := e.old.users[c.GetUser()]
	switch {
	case old == nil:
		return rpctypes.ErrGRPCUserNotFound
	case !HasRole(old, c.Role):
		return rpctypes.ErrGRPCRoleNotGranted
	}
	e.putUser(old.Name, withoutRole(old, c.Role))
	return nil
}

func withoutRole(u *kvdpb.AuthUser, role string) *kvdpb.AuthUser {
	u = proto.CloneOf(u)
	u.Roles = slices.DeleteFunc(u.Roles, func(r string) bool { return r == role })
	return u
}

func (e *edit) addRole(name string) error {
	switch {
	case name == "":
		return rpctypes.ErrGRPCRoleEmpty
	case e.old.roles[name] != nil:
		return rpctypes.ErrGRPCRoleAlreadyExist
	}
	e.putRole(name, &kvdpb.AuthRole{Name: name})
	return nil
}

// deleteRole deletes a role, also from its users.
func (e *edit) deleteRole(name string) error {
	switch {
	case e.old.enabled && name == Root:
		return rpctypes.ErrGRPCInvalidAuthMgmt
	case e.old.roles[name] == nil:
		return rpctypes.ErrGRPCRoleNotFound
	}
	e.putRole(name, nil)
	for _, user := range e.old.Users() {
		if u := e.old.users[user]; HasRole(u, name) {
			e.putUser(user, withoutRole(u, name))
		}
	}
	return nil
}

func (e *edit) grantPermission(c *kvdpb.AuthGrantPermission) error {
	p := c.GetPermission()
	old := e.old.roles[c.GetRole()]
	switch {
	case p == nil:
		return rpctypes.ErrGRPCPermissionNotGiven
	case !validRange(p.Key, p.RangeEnd):
		return rpctypes.ErrGRPCInvalidAuthMgmt
	case old == nil:
		return rpctypes.ErrGRPCRoleNotFound
	}
	r := proto.CloneOf(old)
	at := slices.IndexFunc(r.Permissions, func(q *kvdpb.AuthPermission) bool { return sameRange(p, q) })
	if at >= 0 {
		r.Permissions[at].Type = p.Type
	} else {
		r.Permissions = append(r.Permissions, proto.CloneOf(p))
		slices.SortFunc(r.Permissions, func(a, b *kvdpb.AuthPermission) int {
			return cmp.Or(bytes.Compare(a.Key, b.Key), bytes.Compare(a.RangeEnd, b.RangeEnd))
		})
	}
	e.putRole(r.Name, r)
	return nil
}

func (e *edit) revokePermission(c *kvdpb.AuthGrantPermission) error {
	old := e.old.roles[c.GetRole()]
	if old == nil {
		return rpctypes.ErrGRPCRoleNotFound
	}
	r := proto.CloneOf(old)
	r.Permissions = slices.DeleteFunc(r.Permissions, func(q *kvdpb.AuthPermission) bool { return sameRange(c.GetPermission(), q) })
	if len(r.Permissions) == len(old.Permissions) {
		return rpctypes.ErrGRPCPermissionNotGranted
	}
	e.putRole(r.Name, r)
	return nil
}

func sameRange(a, b *kvdpb.AuthPermission) bool {
	return bytes.Equal(a.GetKey(), b.GetKey()) && bytes.Equal(a.GetRangeEnd(), b.GetRangeEnd())
}

// validRange tells whether a permission's range holds a key: one key, a range, or
// all from a key on.
func validRange(key, end []byte) bool {
	return len(key) > 0 && (len(end) == 0 || bytes.Compare(key, end) < 0 || OpenEnd(end))
}

// OpenEnd tells whether a range end means "all keys from the first one on".
func OpenEnd(end []byte) bool { return len(end) == 1 && end[0] == 0 }
