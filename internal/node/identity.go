package node

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Files of the data directory that are not the journal's or the store's.
const (
	deploymentFile = "deployment.json"
	jwtSecretFile  = "jwt-secret"
	devKeyFile     = "dev-key"
	adminKeyFile   = "admin-key"
)

// deployment is what is fixed when a deployment is created.
type deployment struct {
	Shards int `json:"shards"`
}

// checkDeployment refuses a number of shards that is not that of the data directory's deployment: recipients would be
// looked for where their messages are not. A directory that has none yet is known to have none.
func checkDeployment(dir string, shards int) (known bool, err error) {
	path := filepath.Join(dir, deploymentFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var d deployment
	if err := json.Unmarshal(raw, &d); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	if d.Shards != shards {
		return true, &OptionError{Option: "shards", Value: fmt.Sprint(shards),
			Reason: fmt.Sprintf("the deployment in %s was created with %d, which cannot change", dir, d.Shards)}
	}
	return true, nil
}

// claimDeployment notes the deployment in its data directory. It comes after the store and the journal have taken the
// number of shards, so that a wrong one leaves nothing behind that would refuse the right one.
func claimDeployment(dir string, shards int) error {
	if known, err := checkDeployment(dir, shards); known || err != nil {
		return err
	}
	raw, err := json.Marshal(deployment{Shards: shards})
	if err != nil {
		return err
	}
	return writeDurably(filepath.Join(dir, deploymentFile), append(raw, '\n'), 0o644)
}

// sameShards fixes the deployment's number of shards in the store, or refuses another than is fixed there. All
// nodes have the store in common, whatever they keep in their data directories.
func sameShards(ctx context.Context, d store.Deployment, shards int) error {
	fixed, err := d.FixShards(ctx, shards)
	if err != nil {
		return fmt.Errorf("number of shards in the store: %w", err)
	}
	if fixed != shards {
		return &OptionError{Option: "shards", Value: fmt.Sprint(shards),
			Reason: fmt.Sprintf("the deployment in this store was created with %d, which cannot change", fixed)}
	}
	return nil
}

// secretFile returns the secret kept in a file of the data directory, generated at the first start.
func secretFile(dir, name string, generate func() string) (secret string, fresh bool, err error) {
	path := filepath.Join(dir, name)
	raw, err := os.ReadFile(path)
	if err == nil {
		if secret = strings.TrimSpace(string(raw)); secret == "" {
			return "", false, fmt.Errorf("%s is empty; remove it to have a new one generated", path)
		}
		return secret, false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", false, err
	}
	secret = generate()
	return secret, true, writeDurably(path, []byte(secret+"\n"), 0o600)
}

func newJWTSecret() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func newAdminKey() string {
	var b [24]byte
	rand.Read(b[:])
	return esh3ar.KeyPrefix + "admin_" + base64.RawURLEncoding.EncodeToString(b[:])
}

// adminKey returns the admin key of the configuration, or the one in the data directory and that file.
func adminKey(cfg *Config) (key, file string, err error) {
	if cfg.AdminKey != "" {
		return string(cfg.AdminKey), "", nil
	}
	key, _, err = secretFile(cfg.Data, adminKeyFile, newAdminKey)
	return key, filepath.Join(cfg.Data, adminKeyFile), err
}

// writeDurably creates a file that is wholly there or not at all, also after a power cut.
func writeDurably(path string, data []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err == nil {
		if err = f.Chmod(mode); err == nil {
			err = f.Sync()
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// devClient is the client that every deployment begins with.
const devClient = "dev"

// bootstrap makes sure that the store, which is known to be this deployment's, has the development client and its key.
func (n *Node) bootstrap(ctx context.Context, clients store.Clients) error {
	return bootstrap(ctx, clients, n.info.DevKey, n.clock.Now())
}

// bootstrap makes sure that the development client and its key exist.
func bootstrap(ctx context.Context, clients store.Clients, key string, now time.Time) error {
	entry := store.AuditEntry{At: now, Actor: "bootstrap", Client: devClient}
	_, err := clients.Client(ctx, devClient)
	if errors.Is(err, store.ErrNotFound) {
		entry.Action, entry.Object = "client.create", devClient
		_, err = clients.PutClient(ctx, esh3ar.Client{
			ID: devClient, Name: "development", Tier: esh3ar.TierGold, Scopes: esh3ar.AllScopes, CreatedAt: now,
		}, entry)
		if errors.Is(err, store.ErrConflict) {
			err = nil // another node was faster, or somebody has deleted it for good
		}
	}
	if err != nil {
		return fmt.Errorf("development client: %w", err)
	}
	hash := esh3ar.HashKey(key)
	_, _, err = clients.ClientByKey(ctx, hash)
	if errors.Is(err, store.ErrNotFound) {
		k := esh3ar.APIKey{
			ID: esh3ar.KeyID(key), Hash: hash, Client: devClient, Name: "bootstrap", Hint: esh3ar.KeyHint(key), CreatedAt: now,
		}
		entry.Action, entry.Object = "key.create", k.ID
		err = clients.PutKeys(ctx, []esh3ar.APIKey{k}, entry)
		if errors.Is(err, store.ErrNotFound) {
			err = nil // the client was deleted
		}
	}
	if err != nil {
		return fmt.Errorf("development client's key: %w", err)
	}
	return nil
}
