package config

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"filippo.io/age"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// validateBackup checks where and how a cluster is backed up.
func validateBackup(b *v1alpha1.Backup, p *field.Path) field.ErrorList {
	var all field.ErrorList
	if b.Target != "" {
		if err := CheckBackupTarget(b.Target); err != nil {
			all = append(all, field.Invalid(p.Child("target"), field.OmitValueType{}, err.Error()))
		}
	}
	for i, r := range b.Recipients {
		if _, err := age.ParseRecipients(strings.NewReader(r)); err != nil {
			all = append(all, field.Invalid(p.Child("recipients").Index(i), field.OmitValueType{}, "must be a public key of age: age1..."))
		}
	}
	if b.Plain && len(b.Recipients) > 0 {
		all = append(all, field.Forbidden(p.Child("plain"), "archives are encrypted where there are recipients"))
	}
	if b.Schedule != "" && b.Target == "" {
		all = append(all, field.Required(p.Child("target"), "where scheduled backups are kept"))
	}
	if b.Schedule != "" && !b.Plain && len(b.Recipients) == 0 {
		all = append(all, field.Required(p.Child("recipients"), "whom scheduled backups are encrypted for"))
	}
	if strings.ContainsAny(b.Schedule, "\n\r") {
		all = append(all, field.Invalid(p.Child("schedule"), b.Schedule, "must be one line"))
	}
	if b.Retention.Keep < 0 {
		all = append(all, field.Invalid(p.Child("retention", "keep"), b.Retention.Keep, "must be at least 1"))
	}
	if b.Retention.MaxAge != "" {
		if err := b.Retention.MaxAge.Check(); err != nil {
			all = append(all, field.Invalid(p.Child("retention", "maxAge"), string(b.Retention.MaxAge), err.Error()))
		}
	}
	all = append(all, validateKeyFile(b.SFTP.KeyFile, p.Child("sftp", "keyFile"))...)
	all = append(all, validateSecrets(p.Child("sftp"), map[string]v1alpha1.SecretRef{"passphrase": b.SFTP.Passphrase, "password": b.SFTP.Password})...)
	all = append(all, validateSecrets(p.Child("s3"), map[string]v1alpha1.SecretRef{"accessKey": b.S3.AccessKey, "secretKey": b.S3.SecretKey})...)
	all = append(all, validatePEMFile(b.S3.CAFile, p.Child("s3", "caFile"))...)
	if strings.HasPrefix(b.Target, "s3://") {
		all = append(all, validateS3(&b.S3, p.Child("s3"))...)
	}
	return all
}

func validateS3(s *v1alpha1.BackupS3, p *field.Path) field.ErrorList {
	var all field.ErrorList
	u, err := url.Parse(s.Endpoint)
	switch {
	case s.Endpoint == "":
		all = append(all, field.Required(p.Child("endpoint"), "https://HOST[:PORT]"))
	case err != nil || u.User != nil || u.Host == "" || u.Path != "" && u.Path != "/" || u.Scheme != "https" && u.Scheme != "http":
		all = append(all, field.Invalid(p.Child("endpoint"), field.OmitValueType{}, "must be https://HOST[:PORT], without a path or password"))
	}
	for _, f := range []struct {
		name string
		ref  v1alpha1.SecretRef
	}{{"accessKey", s.AccessKey}, {"secretKey", s.SecretKey}} {
		if f.ref == "" {
			all = append(all, field.Required(p.Child(f.name), "env:NAME or file:PATH"))
		}
	}
	return all
}

// CheckBackupTarget says what is wrong with where backups are to be kept; nil where
// it is a folder, a server with SFTP or a bucket.
func CheckBackupTarget(where string) error {
	scheme, _, isURL := strings.Cut(where, "://")
	if !isURL {
		if !path.IsAbs(where) {
			return errors.New("must be an absolute path, sftp://USER@HOST/PATH or s3://BUCKET/PREFIX")
		}
		return nil
	}
	u, err := url.Parse(where)
	switch {
	case err != nil:
		return errors.New("is no URL")
	case scheme != "sftp" && scheme != "s3":
		return fmt.Errorf("must be an absolute path, sftp:// or s3://, not %s://", scheme)
	case u.Hostname() == "":
		return errors.New("names no host or bucket")
	case scheme == "sftp" && strings.Trim(u.Path, "/") == "":
		return errors.New("names no folder on the server")
	}
	if _, has := u.User.Password(); has {
		return errors.New("must not hold a password: refer to one in spec.backup.sftp.password")
	}
	return nil
}
