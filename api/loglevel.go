package api

import (
	"bytes"
	"io"
	"net/http"

	"go.uber.org/zap"
)

// maxLevelBytes is far more than any request to change the level needs.
const maxLevelBytes = 1 << 10

// logLevelPage shows the level of the log, {"level":"info"}, and takes a new one
// by PUT, as etcd's page of this path did when it had one.
func logLevelPage(level *zap.AtomicLevel, log *zap.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet, http.MethodPut:
		default:
			w.Header().Set("Allow", http.MethodGet+", "+http.MethodPut)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLevelBytes))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
			// curl says that everything is a form.
			r.Header.Set("Content-Type", "application/json")
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		before := level.Level()
		level.ServeHTTP(w, r)
		if after := level.Level(); after != before {
			// Written at the level of warnings so that either level lets it through.
			log.Warn("changed the log level", zap.Stringer("from", before), zap.Stringer("to", after), zap.String("remote", r.RemoteAddr))
		}
	}
}
