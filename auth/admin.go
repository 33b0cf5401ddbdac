package auth

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"
)

// Change has an administrator's change applied.
func (s *Service) Change(ctx context.Context, cmd *kvdpb.AuthCommand) error {
	err := s.Run(ctx, (*Caller).Root, func(marked context.Context) error {
		// Each try is another command: one that was refused as old stays refused.
		var id [8]byte
		if _, err := rand.Read(id[:]); err != nil {
			return fmt.Errorf("draw the id of a command: %w", err)
		}
		cmd.Id, cmd.Checked = binary.LittleEndian.Uint64(id[:]), Version(marked)
		wait, cancel := context.WithTimeout(marked, s.cfg.RequestTimeout)
		defer cancel()
		return s.own(ctx, s.cfg.Placement.ChangeAuth(wait, cmd))
	})
	if err == nil {
		// Names are no secrets; what the change holds beside them may be.
		s.log.Info("changed users and roles", zap.String("change", nameOf(cmd)), zap.Uint64("auth-revision", s.cfg.Placement.Auth().Revision()))
	}
	return err
}

// own turns the end of the server's own time into etcd's error.
func (s *Service) own(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return rpctypes.ErrGRPCTimeout
}

func nameOf(cmd *kvdpb.AuthCommand) string {
	switch c := cmd.GetChange().(type) {
	case *kvdpb.AuthCommand_Switch:
		if c.Switch.On {
			return "enabled authentication"
		}
		return "disabled authentication"
	case *kvdpb.AuthCommand_AddUser:
		return fmt.Sprintf("added user %q", c.AddUser.Name)
	case *kvdpb.AuthCommand_DeleteUser:
		return fmt.Sprintf("deleted user %q", c.DeleteUser.Name)
	case *kvdpb.AuthCommand_ChangePassword:
		return fmt.Sprintf("changed the password of user %q", c.ChangePassword.Name)
	case *kvdpb.AuthCommand_GrantRole:
		return fmt.Sprintf("granted role %q to user %q", c.GrantRole.Role, c.GrantRole.User)
	case *kvdpb.AuthCommand_RevokeRole:
		return fmt.Sprintf("revoked role %q from user %q", c.RevokeRole.Role, c.RevokeRole.User)
	case *kvdpb.AuthCommand_AddRole:
		return fmt.Sprintf("added role %q", c.AddRole.Name)
	case *kvdpb.AuthCommand_DeleteRole:
		return fmt.Sprintf("deleted role %q", c.DeleteRole.Name)
	case *kvdpb.AuthCommand_GrantPermission:
		return fmt.Sprintf("granted a permission to role %q", c.GrantPermission.Role)
	case *kvdpb.AuthCommand_RevokePermission:
		return fmt.Sprintf("revoked a permission from role %q", c.RevokePermission.Role)
	}
	return "none"
}

// Turn turns auth on or off.
func (s *Service) Turn(ctx context.Context, on bool) error {
	change := &kvdpb.AuthSwitch{On: on}
	if on {
		change.Secret = make([]byte, authstate.SecretBytes)
		if _, err := rand.Read(change.Secret); err != nil {
			return fmt.Errorf("draw the secret of tokens: %w", err)
		}
	}
	return s.Change(ctx, &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_Switch{Switch: change}})
}

// AddUser adds a user. A hash in the request is ignored: only members of etcd send
// one, to each other.
func (s *Service) AddUser(ctx context.Context, r *pb.AuthUserAddRequest) error {
	u := &kvdpb.AuthPutUser{Name: r.Name, NoPassword: r.Options.GetNoPassword()}
	if !u.NoPassword {
		// Whoever may not add users shall not make this member hash.
		if err := s.Run(ctx, (*Caller).Root, func(context.Context) error { return nil }); err != nil {
			return err
		}
		var err error
		if u.PasswordHash, err = s.hasher.hash(ctx, r.Password); err != nil {
			return err
		}
	}
	return s.Change(ctx, &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_AddUser{AddUser: u}})
}

// ChangePassword gives a user another password.
func (s *Service) ChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) error {
	if err := s.Run(ctx, (*Caller).Root, func(context.Context) error { return nil }); err != nil {
		return err
	}
	u := &kvdpb.AuthPutUser{Name: r.Name}
	if r.Password != "" {
		var err error
		if u.PasswordHash, err = s.hasher.hash(ctx, r.Password); err != nil {
			return err
		}
	}
	return s.Change(ctx, &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_ChangePassword{ChangePassword: u}})
}

// Look shows the state to a caller that check permits: what every change that had
// finished left.
func (s *Service) Look(ctx context.Context, check Check, look func(*authstate.State) error) error {
	wait, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	if err := s.own(ctx, s.cfg.Placement.Barrier(wait)); err != nil {
		return err
	}
	rules := s.Rules()
	if err := s.permit(ctx, rules, check); err != nil {
		return err
	}
	return look(rules.state)
}

// Authenticate returns a token for a user's name and password.
func (s *Service) Authenticate(ctx context.Context, name, password string) (string, error) {
	wait, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	if err := s.own(ctx, s.cfg.Placement.Barrier(wait)); err != nil {
		return "", err
	}
	for {
		changed := s.News()
		rules := s.Rules()
		if rules.Version() == 0 {
			return "", rpctypes.ErrGRPCAuthNotEnabled
		}
		var hash []byte
		if u := rules.state.User(name); u != nil && !u.NoPassword && len(u.PasswordHash) > 0 {
			hash = u.PasswordHash
		}
		ok, err := s.hasher.fits(wait, hash, password)
		if err != nil {
			return "", s.own(ctx, err)
		}
		// The password that was compared must be the present one.
		current, err := s.confirm(wait, rules)
		switch {
		case err != nil:
			return "", s.own(ctx, err)
		case current && !ok:
			s.log.Info("invalid authentication was requested", zap.String("user", name))
			return "", rpctypes.ErrGRPCAuthFailed
		case current:
			return s.tokens.assign(rules.state, name)
		}
		if err := s.await(wait, changed, recheckMost); err != nil {
			return "", s.own(ctx, err)
		}
	}
}
