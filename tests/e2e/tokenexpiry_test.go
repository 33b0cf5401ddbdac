package e2e

import (
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// TestExpiredTokens: a token is good for its time on every member, then it is etcd's "invalid auth token"; a client of etcd that
// was given name and password gets itself another and shows nothing of it, also in a watch that was there before.
func TestExpiredTokens(t *testing.T) {
	private, _ := edKeys(t)
	for kind, o := range map[string]cluster.Options{
		"simple": {Members: 3, Args: []string{"--bcrypt-cost=4", "--auth-token=simple", "--auth-token-ttl=2"}},
		// One that all members verify is TestJWTAmongMembers'.
		"JWT": {Args: []string{"--bcrypt-cost=4", "--auth-token=jwt,sign-method=EdDSA,ttl=2s,priv-key=" + private}},
	} {
		t.Run(kind, func(t *testing.T) {
			c := startCluster(t, o)
			addUsers(t, client(t, c), &clientv3.UserAddOptions{})
			ctx := within(t, patience)
			alice := as(t, c, "alice", "alicepw", c.Members[0])
			_, err := alice.Put(ctx, "a/x", "0")
			must(t, "put", err)
			watched := alice.Watch(ctx, "a/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
			<-watched
			through := c.Members[len(c.Members)-1]
			resp, err := client(t, c, through).Authenticate(ctx, "alice", "alicepw")
			must(t, "authenticate", err)
			must(t, "a new token", withToken(ctx, t, through, resp.Token))
			// Twice the time, because etcd looks for ended simple tokens once a second.
			await(t, 4*time.Second)
			for _, m := range c.Members {
				refused(t, "ended token through "+m.Name, withToken(ctx, t, m, resp.Token), rpctypes.ErrInvalidAuthToken)
			}
			for i := range 2 {
				_, err = alice.Put(ctx, "a/x", fmt.Sprint(i+1))
				must(t, "put with a token that the client renewed", err)
			}
			seen := 0
			for seen < 2 {
				select {
				case r := <-watched:
					must(t, "watch", r.Err())
					seen += len(r.Events)
				case <-ctx.Done():
					t.Fatalf("the watch saw %d of 2 puts", seen)
				}
			}
		})
	}
}
