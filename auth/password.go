package auth

import (
	"context"
	"errors"
	"runtime"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxPasswords bounds the hashes that are computed or waited for.
const maxPasswords = 256

// hasher computes bcrypt hashes. They are dear on purpose, so only some of the
// machine's cores do that at a time, and requests that need none never wait for
// it.
type hasher struct {
	cost int
	// turns has room for those that compute, waiting for all.
	turns, waiting chan struct{}
	// decoy is compared where there is no user, so that the answer takes as long.
	decoy []byte
}

func newHasher(cost int) (*hasher, error) {
	decoy, err := bcrypt.GenerateFromPassword([]byte("decoy"), cost)
	if err != nil {
		return nil, err
	}
	turns := max(1, runtime.GOMAXPROCS(0)/2)
	return &hasher{cost: cost, turns: make(chan struct{}, turns), waiting: make(chan struct{}, maxPasswords), decoy: decoy}, nil
}

// turn waits for a turn, and runs f in it.
func (h *hasher) turn(ctx context.Context, f func()) error {
	select {
	case h.waiting <- struct{}{}:
		defer func() { <-h.waiting }()
	default:
		return rpctypes.ErrGRPCRequestTooManyRequests
	}
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	f()
	return nil
}

// hash returns the hash of a password.
func (h *hasher) hash(ctx context.Context, password string) (hash []byte, err error) {
	if terr := h.turn(ctx, func() { hash, err = bcrypt.GenerateFromPassword([]byte(password), h.cost) }); terr != nil {
		return nil, terr
	}
	if errors.Is(err, bcrypt.ErrPasswordTooLong) {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return hash, err
}

// fits tells whether a password has a hash; a nil one fits none.
func (h *hasher) fits(ctx context.Context, hash []byte, password string) (ok bool, err error) {
	compared := hash
	if hash == nil {
		compared = h.decoy
	}
	err = h.turn(ctx, func() { ok = bcrypt.CompareHashAndPassword(compared, []byte(password)) == nil })
	return ok && hash != nil, err
}
