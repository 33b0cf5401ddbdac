package main

import (
	"fmt"
	"strings"

	"github.com/bgentry/speakeasy"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/client/pkg/v3/logutil"
	"go.etcd.io/etcd/client/pkg/v3/srv"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3/command"
	"go.etcd.io/etcd/pkg/v3/cobrautl"
	"go.etcd.io/etcd/pkg/v3/flags"
	"go.uber.org/zap"
)

// connect opens a client by the global flags and the environment, as etcdctl's commands do. The client picks endpoints
// and carries credentials; its connection serves ShardAdmin as well.
func connect(cmd *cobra.Command, global *command.GlobalFlags) (*clientv3.Client, error) {
	logger, err := logutil.CreateDefaultZapLogger(zap.InfoLevel)
	if err != nil {
		return nil, err
	}
	if err := flags.SetPflagsFromEnv(logger, "ETCDCTL", cmd.InheritedFlags()); err != nil {
		return nil, &codedError{cobrautl.ExitBadArgs, err}
	}
	endpoints, err := endpoints(global)
	if err != nil {
		return nil, err
	}
	auth, err := identity(global)
	if err != nil {
		return nil, &codedError{cobrautl.ExitBadArgs, err}
	}
	secure := &clientv3.SecureConfig{
		Cert: global.TLS.CertFile, Key: global.TLS.KeyFile, Cacert: global.TLS.TrustedCAFile,
		InsecureTransport: global.Insecure, InsecureSkipVerify: global.InsecureSkipVerify,
	}
	if !global.InsecureDiscovery {
		secure.ServerName = global.TLS.ServerName
	}
	config, err := clientv3.NewClientConfig(&clientv3.ConfigSpec{
		Endpoints: endpoints, DialTimeout: global.DialTimeout,
		KeepAliveTime: global.KeepAliveTime, KeepAliveTimeout: global.KeepAliveTimeout,
		MaxCallSendMsgSize: global.MaxCallSendMsgSize, MaxCallRecvMsgSize: global.MaxCallRecvMsgSize,
		Secure: secure, Auth: auth,
	}, logger)
	if err != nil {
		return nil, &codedError{cobrautl.ExitBadArgs, err}
	}
	config.Logger = zap.NewNop() // the command tells what went wrong, once
	client, err := clientv3.New(*config)
	if err != nil {
		return nil, &codedError{cobrautl.ExitBadConnection, err}
	}
	return client, nil
}

// endpoints answers whom to ask: the SRV records of --discovery-srv, or --endpoints.
func endpoints(global *command.GlobalFlags) ([]string, error) {
	if domain := global.TLS.ServerName; domain != "" {
		found, err := srv.GetClient("etcd-client", domain, global.DNSClusterServiceName)
		if err != nil {
			return nil, fmt.Errorf("looking for endpoints in the DNS: %w", err)
		}
		var usable []string
		for _, endpoint := range found.Endpoints {
			if global.InsecureDiscovery || !strings.HasPrefix(endpoint, "http://") {
				usable = append(usable, endpoint)
			}
		}
		if len(usable) > 0 {
			return usable, nil
		}
	}
	given := make([]string, len(global.Endpoints))
	for i, endpoint := range global.Endpoints {
		given[i] = strings.TrimSpace(endpoint)
	}
	return given, nil
}

// identity answers who we are, nil if nobody was named.
func identity(global *command.GlobalFlags) (*clientv3.AuthConfig, error) {
	switch {
	case global.Token != "":
		return &clientv3.AuthConfig{Token: global.Token}, nil
	case global.User == "":
		return nil, nil
	case global.Password != "":
		return &clientv3.AuthConfig{Username: global.User, Password: global.Password}, nil
	}
	user, password, ok := strings.Cut(global.User, ":")
	if !ok {
		var err error
		if password, err = speakeasy.Ask("Password: "); err != nil {
			return nil, fmt.Errorf("ask for the password of %s: %w", user, err)
		}
	}
	return &clientv3.AuthConfig{Username: user, Password: password}, nil
}
