package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3/command"
	"go.etcd.io/etcd/pkg/v3/cobrautl"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

func newClusterCommand(global *command.GlobalFlags) *cobra.Command {
	cluster := &cobra.Command{
		Use:     "cluster <subcommand>",
		Short:   "Cluster related commands. Use `kvctl cluster --help` to see subcommands",
		GroupID: shardGroup,
	}
	settings := &cobra.Command{
		Use:   "settings [list | set <name> <value> | reset <name>]",
		Short: "Shows and changes the settings of the cluster",
		Long: `Shows and changes the settings that hold for the whole cluster and change while it runs: how many replicas a shard has,
and what the cluster does by itself.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return listSettings(cmd, global) },
	}
	settings.AddCommand(
		&cobra.Command{
			Use: "list", Short: "Lists all settings", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return listSettings(cmd, global) },
		},
		&cobra.Command{
			Use: "set <name> <value>", Short: "Sets a setting", Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				return changeSetting(cmd, global, &kvdpb.ChangeSettingRequest{Name: args[0], Value: args[1]})
			},
		},
		&cobra.Command{
			Use: "reset <name>", Short: "Gives a setting its default back", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return changeSetting(cmd, global, &kvdpb.ChangeSettingRequest{Name: args[0], Reset_: true})
			},
		},
	)
	cluster.AddCommand(settings)
	return cluster
}

func listSettings(cmd *cobra.Command, global *command.GlobalFlags) error {
	return withClient(cmd, global, func(ctx context.Context, _ *clientv3.Client, admin kvdpb.ShardAdminClient) error {
		response, err := admin.Settings(ctx, &kvdpb.SettingsRequest{})
		if err != nil {
			return err
		}
		return showSettings(cmd.OutOrStdout(), global.OutputFormat, response.Settings)
	})
}

func changeSetting(cmd *cobra.Command, global *command.GlobalFlags, request *kvdpb.ChangeSettingRequest) error {
	return withClient(cmd, global, func(ctx context.Context, _ *clientv3.Client, admin kvdpb.ShardAdminClient) error {
		response, err := admin.ChangeSetting(ctx, request)
		if err != nil {
			return err
		}
		return showSettings(cmd.OutOrStdout(), global.OutputFormat, []*kvdpb.Setting{response.Setting})
	})
}

// settingJSON is one setting for programs.
type settingJSON struct {
	Name        string `json:"name"`
	Value       string `json:"value"`
	Default     string `json:"default"`
	Set         bool   `json:"set"`
	Description string `json:"description"`
}

func showSettings(w io.Writer, format string, settings []*kvdpb.Setting) error {
	switch format {
	case "json":
		all := make([]settingJSON, len(settings))
		for i, s := range settings {
			all[i] = settingJSON{s.Name, s.Value, s.Default, s.Set, s.Description}
		}
		return json.NewEncoder(w).Encode(all)
	case "simple", "table":
	default:
		return &codedError{cobrautl.ExitBadFeature, fmt.Errorf("unsupported output format: settings are shown as simple or json")}
	}
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(columns, "NAME\tVALUE\tDEFAULT\tWHAT IT IS")
	for _, s := range settings {
		fmt.Fprintf(columns, "%s\t%s\t%s\t%s\n", s.Name, s.Value, s.Default, s.Description)
	}
	return columns.Flush()
}
