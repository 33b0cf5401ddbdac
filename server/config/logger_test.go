package config

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestLoggerHasEtcdsKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	cfg := parse(t, "--log-outputs="+path, "--log-level=warn")
	logger, level, err := cfg.NewLogger()
	require.NoError(t, err)
	logger.Info("not this")
	logger.Warn("but this", zap.Int("n", 3))
	level.SetLevel(zapcore.InfoLevel)
	logger.Info("and this")
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	lines := bytes.Split(bytes.TrimSpace(written), []byte("\n"))
	require.Len(t, lines, 2)
	var line map[string]any
	require.NoError(t, json.Unmarshal(lines[0], &line))
	require.Equal(t, "warn", line["level"])
	require.Equal(t, "but this", line["msg"])
	require.EqualValues(t, 3, line["n"])
	require.Contains(t, line, "ts")
	require.Contains(t, line["caller"], "config/logger_test.go:")
}

func TestLoggerFailsClearly(t *testing.T) {
	cfg := parse(t, "--log-outputs="+filepath.Join(t.TempDir(), "no", "such", "directory"))
	_, _, err := cfg.NewLogger()
	require.ErrorContains(t, err, "opening the log")
}

func TestJournalEntries(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "journal")
	old := journalSocket
	journalSocket = socket
	t.Cleanup(func() { journalSocket = old })

	_, err := newJournalWriter(nil)
	require.Error(t, err, "nobody listens")
	journald, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	defer journald.Close()

	logger, _, err := parse(t, "--log-outputs=systemd/journal").NewLogger()
	require.NoError(t, err)
	logger.Error("it\nbroke")
	buffer := make([]byte, 4096)
	n, err := journald.Read(buffer)
	require.NoError(t, err)
	head, body, ok := bytes.Cut(buffer[:n], []byte("MESSAGE\n"))
	require.True(t, ok)
	require.Contains(t, string(head), "PRIORITY=3\nSYSLOG_IDENTIFIER=kvd\nCODE_FILE=config/logger_test.go:")
	length := binary.LittleEndian.Uint64(body)
	require.Equal(t, int(length)+9, len(body))
	var line map[string]any
	require.NoError(t, json.Unmarshal(body[8:8+length], &line))
	require.Equal(t, "it\nbroke", line["msg"])
}

func TestJournalFallsBack(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "journal")
	old := journalSocket
	journalSocket = socket
	t.Cleanup(func() { journalSocket = old })
	journald, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	var fallback bytes.Buffer
	writer, err := newJournalWriter(&fallback)
	require.NoError(t, err)
	require.NoError(t, journald.Close())
	for _, line := range []string{"{\"level\":\"info\"}\n", "not JSON\n"} {
		n, err := writer.Write([]byte(line))
		require.NoError(t, err)
		require.Equal(t, len(line), n)
	}
	require.Equal(t, "{\"level\":\"info\"}\nnot JSON\n", fallback.String())
}
