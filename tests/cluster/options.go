package cluster

import (
	"errors"
	"fmt"
)

// Options describe a cluster before it is started.
type Options struct {
	// Binary is the path of the server to run; it is given etcd's flags.
	Binary string
	// Members is the number of members; 0 means 1.
	Members int
	// Dir holds one directory and one log per member. Empty means a new temporary directory, which Close removes.
	Dir string
	// Token is the initial cluster token; empty means one of its own for this cluster.
	Token string
	// Args are appended to every member's flags.
	Args []string
	// Env is appended to every member's environment, from which ETCD_* and KVD_* of this process are removed.
	Env []string
	// ClientTLS, if set, makes members serve their clients over TLS and demand client certificates signed by the same authority.
	ClientTLS *Certs
	// PeerTLS, if set, makes members speak mutual TLS among each other.
	PeerTLS *Certs
	// Network puts proxies between the members, which tests can cut, slow down and make lossy.
	Network bool
}

func (o *Options) validate() error {
	if o.Binary == "" {
		return errors.New("cluster: no binary given")
	}
	if o.Members == 0 {
		o.Members = 1
	}
	if o.Members < 0 || o.Members > 9 {
		return fmt.Errorf("cluster: %d members asked for, 1 to 9 are possible", o.Members)
	}
	return nil
}

func (o *Options) clientScheme() string {
	if o.ClientTLS != nil {
		return "https"
	}
	return "http"
}

func (o *Options) peerScheme() string {
	if o.PeerTLS != nil {
		return "https"
	}
	return "http"
}
