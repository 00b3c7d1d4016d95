// Package filesource reads database credentials from files that something else
// keeps current: Vault Agent, Vault Secrets Operator, a Secrets Store CSI driver,
// External Secrets, a configuration manager. [Source] is a [rotation.Source] and a
// [rotation.Watcher] for a directory with one file per field, such as a mounted
// Kubernetes Secret, and for a single JSON file.
//
// # What happens on failure
//
// [New] reads nothing and fails only for what is wrong with the configuration.
//
// An error of [Source.Issue] names the path and the field, and never what is in the
// files. Neither does a Source, a [Config] or a log line, under any fmt verb. With
// errors.Is it is one of these:
//
//   - [rotation.ErrInvalid]: something is there that is not a credential, and it was
//     the same at a second look: no JSON, not the fields, not strings, more than
//     1 MiB, not a regular file. At the start that is an error at once.
//   - anything else may pass: a file that is not there yet or is empty, one that may
//     not be read, an input or output error, files that keep changing. The errors of
//     the file system are wrapped ([io/fs.ErrNotExist], [io/fs.ErrPermission]). At
//     the start they are tried again for as long as rotation.Config.StartTimeout,
//     since whoever writes the files may start at the same time, or set owner and
//     mode only afterwards. They are never [rotation.ErrDenied], which would end the
//     start for what a sidecar mends within a second.
//
// Once there is a credential it stays in use until a better one is read: files that
// vanish or break are logged once, and nothing happens to the connections. Reading
// from a network file system that is gone can hang, and cannot be interrupted. Then
// the credential in use stays as well.
//
// # Half written, and half of each
//
// User and password are never of two versions. Where a directory has the link
// ..data, as volumes of Kubernetes and of the CSI driver do, it is followed once and
// both files are read below it. Everything else is read twice, 100 ms apart, and used
// when both looks saw the same files with the same content; so a file that is being
// rewritten in place, or a pair of which one is replaced, is waited for. Only whoever
// pauses for longer than that in the middle of writing is not recognised. The
// Rotator's proof refuses such a pair, unless it is the very first one. Writing to
// another name and renaming, one JSON file for both fields, leaves no such doubt.
//
// # How long a credential lasts
//
// The files do not say. The lease has no ID and no end, is not renewed and not
// revoked: all that is the business of whoever writes. Two consequences:
//
// A new user is used within Config.Interval of being in the files. Connections of the
// old one are replaced in the background and have rotation.Config.DrainTimeout (5
// minutes) to finish. The old user should live that long and Interval more after it
// was replaced in the files, and on the way there the writer's own delays count too.
// Where it does not, set a shorter DrainTimeout: PostgreSQL drops the rights of a
// revoked user under open sessions. Where only the password changes, connections that
// are open stay, since the server keeps them.
//
// If it dies early all the same, the first login that is refused makes the Rotator
// read the files again at once, without waiting for Watch. While they hold the same
// credential still, logins fail; as soon as Watch sees another one it is taken.
//
// Where a service can reach Vault, vaultsource knows all of this, and revokes too.
//
// # Vault Agent
//
// One template with both fields, as JSON. Vault Agent writes it to a temporary file
// and renames that:
//
//	template {
//	  contents    = "{{ with secret \"database/creds/app\" }}{{ .Data | toJSON }}{{ end }}"
//	  destination = "/run/app/db.json"
//	  perms       = "0600"
//	}
//
// and here
//
//	filesource.Config{File: "/run/app/db.json"}
//
// The same with "database/static-creds/app" reads a static role. For a secret in KV
// version 2 it is "secret/data/app" and {{ .Data.data | toJSON }}.
//
// # Vault Secrets Operator
//
//	apiVersion: secrets.hashicorp.com/v1beta1
//	kind: VaultDynamicSecret
//	metadata:
//	  name: app-db
//	spec:
//	  vaultAuthRef: app
//	  mount: database
//	  path: creds/app
//	  renewalPercent: 67
//	  destination:
//	    name: app-db
//	    create: true
//
// makes a Secret with the keys username and password, which the pod mounts as a whole:
//
//	volumes:
//	  - name: db
//	    secret:
//	      secretName: app-db
//	containers:
//	  - name: app
//	    volumeMounts:
//	      - name: db
//	        mountPath: /etc/db
//	        readOnly: true
//
// and here
//
//	filesource.Config{Dir: "/etc/db"}
//
// Not with subPath: such a mount never sees an update, nor does an environment
// variable. The kubelet writes an update at its next sync, which takes a minute or
// two; the rest of the lease, a third with the renewalPercent above, has to cover that
// and the draining.
//
// # Secrets Store CSI driver
//
//	apiVersion: secrets-store.csi.x-k8s.io/v1
//	kind: SecretProviderClass
//	metadata:
//	  name: app-db
//	spec:
//	  provider: vault
//	  parameters:
//	    roleName: app
//	    objects: |
//	      - objectName: username
//	        secretPath: database/creds/app
//	        secretKey: username
//	      - objectName: password
//	        secretPath: database/creds/app
//	        secretKey: password
//
// mounted as a volume of the driver secrets-store.csi.k8s.io at /etc/db, is read by
// the same Config. The driver updates a volume only with rotation switched on
// (enableSecretRotation in its Helm chart), at its own interval, 2 minutes by default.
package filesource
