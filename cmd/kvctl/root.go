package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3/command"

	"github.com/kvd-io/kvd/version"
)

const name = "kvctl"

// newRoot builds etcdctl's command tree under our name, and adds our commands. It follows etcdctl's own ctlv3 package,
// whose root is private to it.
func newRoot() *cobra.Command {
	cobra.EnablePrefixMatching = true
	global := &command.GlobalFlags{}
	root := &cobra.Command{
		Use:               name,
		Short:             "A command line client for kvd: etcdctl's commands, and kvd's shards.",
		SuggestFor:        []string{"etcdctl"},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return adoptEnvironment(cmd) },
	}
	addGlobalFlags(root, global)
	root.AddGroup(
		command.NewKVGroup(),
		&cobra.Group{ID: shardGroup, Title: "Shard and cluster commands"},
		command.NewClusterMaintenanceGroup(),
		command.NewConcurrencyGroup(),
		command.NewAuthenticationGroup(),
		command.NewUtilityGroup(),
	)
	root.AddCommand(
		command.NewGetCommand(),
		command.NewPutCommand(),
		command.NewDelCommand(),
		command.NewTxnCommand(),
		command.NewCompactionCommand(),
		command.NewAlarmCommand(),
		command.NewDefragCommand(),
		command.NewEndpointCommand(),
		command.NewMoveLeaderCommand(),
		command.NewWatchCommand(),
		newVersionCommand(),
		command.NewLeaseCommand(),
		command.NewMemberCommand(),
		newSnapshotCommand(global),
		command.NewMakeMirrorCommand(),
		command.NewLockCommand(),
		command.NewElectCommand(),
		command.NewAuthCommand(),
		command.NewUserCommand(),
		command.NewRoleCommand(),
		command.NewCheckCommand(),
		command.NewCompletionCommand(),
		command.NewDowngradeCommand(),
		command.NewOptionsCommand(root),
	)
	rename(root)
	root.AddCommand(newShardCommand(global), newClusterCommand(global))
	command.SetHelpCmdGroup(root)

	// As in etcdctl, the many global flags are shown by `options` and not by each help text.
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) { f.Hidden = true })
	root.Flags().BoolP("help", "h", false, "help for "+name)
	root.Flags().Lookup("help").Hidden = true
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		help(cmd, args)
		fmt.Fprintf(cmd.OutOrStdout(), "Use \"%s options\" for a list of global command-line options (applies to all commands).\n", name)
	})
	return root
}

// addGlobalFlags adds etcdctl's global flags with etcdctl's defaults and texts.
func addGlobalFlags(root *cobra.Command, global *command.GlobalFlags) {
	flags := root.PersistentFlags()
	flags.StringSliceVar(&global.Endpoints, "endpoints", []string{"127.0.0.1:2379"}, "gRPC endpoints")
	flags.BoolVar(&global.Debug, "debug", false, "enable client-side debug logging")
	flags.StringVarP(&global.OutputFormat, "write-out", "w", "simple", "set the output format (fields, json, protobuf, simple, table)")
	flags.BoolVar(&global.IsHex, "hex", false, "print byte strings as hex encoded strings")
	formats := []string{"fields", "json", "protobuf", "simple", "table"}
	if err := root.RegisterFlagCompletionFunc("write-out", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveDefault)); err != nil {
		panic(err) // the flag was defined above
	}

	flags.DurationVar(&global.DialTimeout, "dial-timeout", 2*time.Second, "dial timeout for client connections")
	flags.DurationVar(&global.CommandTimeOut, "command-timeout", 5*time.Second, "timeout for short running command (excluding dial timeout)")
	flags.DurationVar(&global.KeepAliveTime, "keepalive-time", 2*time.Second, "keepalive time for client connections")
	flags.DurationVar(&global.KeepAliveTimeout, "keepalive-timeout", 6*time.Second, "keepalive timeout for client connections")
	flags.IntVar(&global.MaxCallSendMsgSize, "max-request-bytes", 0, "client-side request send limit in bytes (if 0, it defaults to 2.0 MiB (2 * 1024 * 1024).)")
	flags.IntVar(&global.MaxCallRecvMsgSize, "max-recv-bytes", 0, "client-side response receive limit in bytes (if 0, it defaults to \"math.MaxInt32\")")

	flags.BoolVar(&global.Insecure, "insecure-transport", true, "disable transport security for client connections")
	flags.BoolVar(&global.InsecureDiscovery, "insecure-discovery", true, "accept insecure SRV records describing cluster endpoints")
	flags.BoolVar(&global.InsecureSkipVerify, "insecure-skip-tls-verify", false, "skip server certificate verification (CAUTION: this option should be enabled only for testing purposes)")
	flags.StringVar(&global.TLS.CertFile, "cert", "", "identify secure client using this TLS certificate file")
	flags.StringVar(&global.TLS.KeyFile, "key", "", "identify secure client using this TLS key file")
	flags.StringVar(&global.TLS.TrustedCAFile, "cacert", "", "verify certificates of TLS-enabled secure servers using this CA bundle")
	flags.StringVar(&global.Token, "auth-jwt-token", "", "JWT token used for authentication (if this option is used, --user and --password should not be set)")
	flags.StringVar(&global.User, "user", "", "username[:password] for authentication (prompt if password is not supplied)")
	flags.StringVar(&global.Password, "password", "", "password for authentication (if this option is used, --user option shouldn't include password)")
	flags.StringVarP(&global.TLS.ServerName, "discovery-srv", "d", "", "domain name to query for SRV records describing cluster endpoints")
	flags.StringVarP(&global.DNSClusterServiceName, "discovery-srv-name", "", "", "service name to query when using DNS discovery")
}

// newVersionCommand adds our version to etcdctl's.
func newVersionCommand() *cobra.Command {
	cmd := command.NewVersionCommand()
	etcdctl := cmd.Run
	cmd.Run = func(cmd *cobra.Command, args []string) {
		etcdctl(cmd, args)
		fmt.Println("kvctl version:", version.Version)
	}
	return cmd
}

// rename puts our name into the help texts of all commands below.
func rename(parent *cobra.Command) {
	for _, cmd := range parent.Commands() {
		for _, text := range []*string{&cmd.Short, &cmd.Long, &cmd.Example} {
			*text = strings.ReplaceAll(*text, "etcdctl", name)
		}
		rename(cmd)
	}
}

// adoptEnvironment hands KVCTL_X to the commands as ETCDCTL_X, which they read, unless the flag was given: for
// ETCDCTL_X beside its flag etcdctl refuses to go on.
func adoptEnvironment(cmd *cobra.Command) error {
	const ours, theirs = "KVCTL_", "ETCDCTL_"
	for _, entry := range os.Environ() {
		key, value, _ := strings.Cut(entry, "=")
		suffix, ok := strings.CutPrefix(key, ours)
		if !ok || value == "" {
			continue
		}
		flag := cmd.InheritedFlags().Lookup(strings.ToLower(strings.ReplaceAll(suffix, "_", "-")))
		if flag != nil && flag.Changed {
			continue
		}
		if err := os.Setenv(theirs+suffix, value); err != nil {
			return fmt.Errorf("adopting %s: %w", key, err)
		}
	}
	return nil
}
