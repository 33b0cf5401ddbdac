package config

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"

	"go.uber.org/zap/zapcore"
)

// journalSocket is where journald takes entries as datagrams; tests replace it.
var journalSocket = "/run/systemd/journal/socket"

// syslogPriority maps the "level" of a log line to journald's.
var syslogPriority = map[string]int{
	zapcore.DebugLevel.String():  7,
	zapcore.InfoLevel.String():   6,
	zapcore.WarnLevel.String():   4,
	zapcore.ErrorLevel.String():  3,
	zapcore.DPanicLevel.String(): 2,
	zapcore.PanicLevel.String():  2,
	zapcore.FatalLevel.String():  2,
}

// journalWriter sends each JSON log line as one journal entry, and writes to fallback what journald does not take: it
// was restarted, or the line is larger than a datagram.
type journalWriter struct {
	conn     net.Conn
	fallback io.Writer
}

func newJournalWriter(fallback io.Writer) (*journalWriter, error) {
	conn, err := net.Dial("unixgram", journalSocket)
	if err != nil {
		return nil, err
	}
	return &journalWriter{conn: conn, fallback: fallback}, nil
}

func (w *journalWriter) Write(line []byte) (int, error) {
	var head struct {
		Level  string `json:"level"`
		Caller string `json:"caller"`
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return w.fallback.Write(line)
	}
	priority, ok := syslogPriority[head.Level]
	if !ok {
		priority = 6
	}
	var entry bytes.Buffer
	fmt.Fprintf(&entry, "PRIORITY=%d\nSYSLOG_IDENTIFIER=kvd\nCODE_FILE=%s\n", priority, head.Caller)
	// A field that may hold line feeds is written with its length.
	message := bytes.TrimRight(line, "\n")
	entry.WriteString("MESSAGE\n")
	entry.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(message))))
	entry.Write(message)
	entry.WriteByte('\n')
	if _, err := w.conn.Write(entry.Bytes()); err != nil {
		return w.fallback.Write(line)
	}
	return len(line), nil
}
