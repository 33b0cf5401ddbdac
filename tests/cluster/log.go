package cluster

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// logReader follows a growing file from an offset and looks for texts in it, reading every byte once.
type logReader struct {
	file    *os.File
	offset  int64
	pending []byte
}

func openLog(path string, offset int64) (*logReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &logReader{file: f, offset: offset}, nil
}

func (r *logReader) close() { r.file.Close() }

// find reads what was appended and tells whether text occurred since the offset given at the start.
func (r *logReader) find(text []byte) (bool, error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.file.ReadAt(buf, r.offset)
		r.offset += int64(n)
		r.pending = append(r.pending, buf[:n]...)
		if bytes.Contains(r.pending, text) {
			return true, nil
		}
		if keep := len(text) - 1; len(r.pending) > keep {
			r.pending = append(r.pending[:0], r.pending[len(r.pending)-keep:]...)
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("reading the log: %w", err)
		}
	}
}

// tail gives the last part of a log for an error message.
func tail(path string, limit int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	off := max(0, st.Size()-limit)
	b, err := io.ReadAll(io.NewSectionReader(f, off, limit))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
