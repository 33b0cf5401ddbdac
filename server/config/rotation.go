package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"gopkg.in/natefinch/lumberjack.v2"
)

// ErrRotationNeedsOneFile has etcd's text.
var ErrRotationNeedsOneFile = errors.New("--log-outputs requires a single file path when --log-rotate-config-json is defined")

// rotatedFile answers the one file among the outputs of the log that rotation is for.
func (c *Config) rotatedFile() (string, error) {
	var files []string
	for _, output := range c.LogOutputs {
		if !slices.Contains([]string{"default", "stderr", "stdout", journalOutput}, output) {
			files = append(files, output)
		}
	}
	if len(files) != 1 {
		return "", ErrRotationNeedsOneFile
	}
	return files[0], nil
}

// rotation reads how to rotate, with etcd's texts for what is wrong.
func (c *Config) rotation() (*lumberjack.Logger, error) {
	file, err := c.rotatedFile()
	if err != nil {
		return nil, err
	}
	rotated := &lumberjack.Logger{}
	var wrongType *json.UnmarshalTypeError
	switch err := json.Unmarshal([]byte(c.logRotation), rotated); {
	case errors.As(err, &wrongType):
		return nil, fmt.Errorf("invalid log rotation config: %w", err)
	case err != nil:
		return nil, fmt.Errorf("improperly formatted log rotation config: %w", err)
	case rotated.MaxSize < 0 || rotated.MaxAge < 0 || rotated.MaxBackups < 0:
		return nil, errors.New("invalid log rotation config: maxsize, maxage and maxbackups must not be negative")
	}
	rotated.Filename = file
	return rotated, nil
}

// newRotatingLogger is what zap builds of its configuration, but that one of its outputs is rotated.
func (c *Config) newRotatingLogger(config zap.Config) (*zap.Logger, error) {
	rotated, err := c.rotation()
	if err != nil {
		return nil, err
	}
	// Opened once now, so that a wrong path stops the start. The file stays open until the process ends.
	if _, err := rotated.Write(nil); err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	sinks := []zapcore.WriteSyncer{zapcore.AddSync(rotated)}
	for _, path := range config.OutputPaths {
		if path == rotated.Filename {
			continue
		}
		sink, _, err := zap.Open(path)
		if err != nil {
			return nil, fmt.Errorf("opening the log: %w", errors.Join(err, rotated.Close()))
		}
		sinks = append(sinks, sink)
	}
	encoder := zapcore.NewJSONEncoder(config.EncoderConfig)
	if config.Encoding == "console" {
		encoder = zapcore.NewConsoleEncoder(config.EncoderConfig)
	}
	sink := zapcore.NewMultiWriteSyncer(sinks...)
	core := zapcore.NewSamplerWithOptions(zapcore.NewCore(encoder, sink, config.Level), time.Second, config.Sampling.Initial, config.Sampling.Thereafter)
	return zap.New(core, zap.AddCaller(), zap.AddStacktrace(zapcore.ErrorLevel), zap.ErrorOutput(sink)), nil
}
