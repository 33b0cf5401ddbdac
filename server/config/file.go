package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxFileBytes bounds what is read as a configuration.
const maxFileBytes = 1 << 20

// nested maps etcd's tables in the file to the flags that their keys are elsewhere.
var nested = map[string]map[string]string{
	"client-transport-security": {
		"cert-file":                    "cert-file",
		"key-file":                     "key-file",
		"client-cert-file":             "client-cert-file",
		"client-key-file":              "client-key-file",
		"client-cert-auth":             "client-cert-auth",
		"crl-file":                     "client-crl-file",
		"trusted-ca-file":              "trusted-ca-file",
		"auto-tls":                     "auto-tls",
		"allowed-cn":                   "client-cert-allowed-cn",
		"allowed-hostname":             "client-cert-allowed-hostname",
		"skip-client-san-verification": "client-skip-client-san-verification",
	},
	"peer-transport-security": {
		"cert-file":                    "peer-cert-file",
		"key-file":                     "peer-key-file",
		"client-cert-file":             "peer-client-cert-file",
		"client-key-file":              "peer-client-key-file",
		"client-cert-auth":             "peer-client-cert-auth",
		"crl-file":                     "peer-crl-file",
		"trusted-ca-file":              "peer-trusted-ca-file",
		"auto-tls":                     "peer-auto-tls",
		"allowed-cn":                   "peer-cert-allowed-cn",
		"allowed-hostname":             "peer-cert-allowed-hostname",
		"skip-client-san-verification": "peer-skip-client-san-verification",
	},
	"socket-options": {
		"reuse-port":    "socket-reuse-port",
		"reuse-address": "socket-reuse-address",
	},
}

// FromFile reads a configuration file. The error is an *InvalidError.
func FromFile(path string) (*Config, error) {
	content, err := readBounded(path)
	if err != nil {
		return nil, &InvalidError{Problems: []error{fmt.Errorf("reading the configuration file: %w", err)}}
	}
	cfg, wrong := fromYAML(content)
	cfg.File = path
	invocation, err := finish(&Invocation{}, cfg, wrong)
	if err != nil {
		return nil, err
	}
	return invocation.Config, nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d of any configuration", path, info.Size(), maxFileBytes)
	}
	return os.ReadFile(path)
}

// fromYAML reads the text of a configuration file: top-level keys named as the flags, and etcd's nested tables. Keys
// that it does not know are ignored with a warning, as etcd ignores them.
func fromYAML(content []byte) (*Config, problems) {
	cfg := Default()
	var wrong problems
	converted, err := yaml.YAMLToJSONStrict(content) // strict: no key twice
	if err != nil {
		wrong.addf("parsing the configuration file: %w", err)
		return cfg, wrong
	}
	var document map[string]any
	decoder := json.NewDecoder(bytes.NewReader(converted))
	decoder.UseNumber() // numbers keep all their digits
	if err := decoder.Decode(&document); err != nil {
		wrong.addf("parsing the configuration file: it is not a table of keys and values")
		return cfg, wrong
	}

	table := named(cfg.options())
	assign := func(key, flag string, content any) {
		option := table[flag]
		if content == nil {
			return // "key:" without a value keeps the default
		}
		written, err := scalar(content, option.value.kind)
		if err == nil {
			err = option.value.Set(written)
		}
		if err != nil {
			wrong.addf("invalid value for %s in the configuration file: %w", key, err)
			return
		}
		cfg.explicit[flag] = true
	}

	for _, key := range slices.Sorted(maps.Keys(document)) {
		content := document[key]
		if inner, ok := nested[key]; ok {
			entries, ok := content.(map[string]any)
			if !ok && content != nil {
				wrong.addf("invalid %s", key)
				continue
			}
			for _, name := range slices.Sorted(maps.Keys(entries)) {
				if flag, ok := inner[name]; ok {
					assign(key+"."+name, flag, entries[name])
				} else {
					cfg.warn(key+"."+name, "unknown key of the configuration file")
				}
			}
			continue
		}
		if key == "discovery-config" {
			wrong.addf("discovery-config: %s: use initial-cluster or discovery-srv", noDiscovery)
			continue
		}
		if option := table[key]; option != nil && !option.fileOnly {
			assign(key, key, content)
		} else {
			cfg.warn(key, "unknown key of the configuration file")
		}
	}
	return cfg, wrong
}

// scalar writes a value of the file as the flag would be written. A list is joined by commas; a bare number where a
// duration is meant counts nanoseconds, as in etcd.
func scalar(content any, kind string) (string, error) {
	switch content := content.(type) {
	case string:
		return content, nil
	case bool:
		return fmt.Sprint(content), nil
	case json.Number:
		if kind == "duration" {
			return content.String() + "ns", nil
		}
		return content.String(), nil
	case []any:
		elements := make([]string, len(content))
		for i, element := range content {
			written, ok := element.(string)
			if !ok {
				return "", fmt.Errorf("element %d is not a string", i+1)
			}
			if kind == "keys" {
				written = strings.ReplaceAll(written, ",", `\x2c`)
			}
			if strings.Contains(written, ",") {
				return "", fmt.Errorf("element %q holds a comma", written)
			}
			elements[i] = written
		}
		return strings.Join(elements, ","), nil
	default:
		return "", fmt.Errorf("a table where a value is expected")
	}
}
