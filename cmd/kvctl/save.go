package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cheggaaa/pb/v3"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3/command"
	"go.etcd.io/etcd/pkg/v3/cobrautl"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/internal/durable"
)

// save gives etcdctl's command a progress bar; what it prints on standard output
// is the same.
func save(cmd *cobra.Command, global *command.GlobalFlags) {
	cmd.Run = nil
	cmd.Args = exactlyOneFile
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.SilenceUsage = true
		client, err := connect(cmd, global)
		if err != nil {
			return err
		}
		defer client.Close()
		if n := len(client.Endpoints()); n != 1 {
			return &codedError{cobrautl.ExitBadArgs, fmt.Errorf("snapshot must be requested to one selected node, not multiple %v", client.Endpoints())}
		}
		stream, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Snapshot(cmd.Context(), &etcdserverpb.SnapshotRequest{})
		if err != nil {
			return explainSave(err)
		}
		version, err := receive(stream, args[0], cmd.ErrOrStderr())
		if err != nil {
			return explainSave(err)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "Snapshot saved at %s\n", args[0])
		if err == nil && version != "" {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Server version %s\n", version)
		}
		return err
	}
}

// explainSave turns a status of the server into an error for people.
func explainSave(err error) error {
	if s, ok := status.FromError(err); ok {
		return &codedError{cobrautl.ExitError, errors.New(s.Message())}
	}
	return err
}

// receive writes a snapshot beside path and gives it its name once it is whole,
// checked and durable.
func receive(stream grpc.ServerStreamingClient[etcdserverpb.SnapshotResponse], path string, progress io.Writer) (version string, err error) {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("could not open %s: %w", part, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part))
		}
	}()
	version, err = download(stream, f, progress)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	if err := os.Rename(part, path); err != nil {
		return "", fmt.Errorf("could not rename %s to %s: %w", part, path, err)
	}
	return version, durable.SyncDir(filepath.Dir(path))
}

// download copies the stream and compares it with the checksum that it ends with.
func download(stream grpc.ServerStreamingClient[etcdserverpb.SnapshotResponse], w io.Writer, progress io.Writer) (version string, err error) {
	var bar *pb.ProgressBar
	if terminal(progress) {
		bar = pb.New64(0).Set(pb.Bytes, true).SetWriter(progress).Start()
		defer func() { bar.Finish() }()
	}
	sum := sha256.New()
	// The last chunk is the checksum, and only the end of the stream tells that it
	// was the last: so each is held back until the next one came.
	var last []byte
	got := int64(0)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		version = m.Version
		if _, err := w.Write(m.Blob); err != nil {
			return "", fmt.Errorf("write snapshot: %w", err)
		}
		// Writing to a hash cannot fail.
		_, _ = sum.Write(last)
		last = m.Blob
		got += int64(len(m.Blob))
		if bar != nil {
			bar.SetTotal(got + int64(m.RemainingBytes)).SetCurrent(got)
		}
	}
	if len(last) != sha256.Size || string(sum.Sum(nil)) != string(last) {
		return "", errors.New("the snapshot arrived damaged or cut short: its checksum does not match")
	}
	return version, nil
}

// terminal tells whether a person watches.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
