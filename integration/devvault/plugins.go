package main

import (
	"slices"

	"github.com/hashicorp/vault/plugins/database/mysql"
	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/helper/consts"
)

// databasePlugins are the only plugins compiled in. Vault's own registry knows dozens, each with a
// cloud's client library behind it, and would multiply the time that this command takes to build.
var databasePlugins = map[string]func() (any, error){
	"postgresql-database-plugin": postgresql.New,
	"mysql-database-plugin":      mysql.New(mysql.DefaultUserNameTemplate),
}

// otherPlugins are given to the core as factories; the registry only has to know of them.
var otherPlugins = map[consts.PluginType][]string{
	consts.PluginTypeSecrets:    {"database", "kv"},
	consts.PluginTypeCredential: {"approle", "userpass"},
}

// builtinPlugins answers the core's questions about what is compiled in.
type builtinPlugins struct{}

func (builtinPlugins) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	if kind != consts.PluginTypeDatabase {
		return nil, false
	}
	factory, found := databasePlugins[name]
	return factory, found
}

func (p builtinPlugins) Contains(name string, kind consts.PluginType) bool {
	return slices.Contains(p.Keys(kind), name)
}

func (builtinPlugins) Keys(kind consts.PluginType) []string {
	if kind != consts.PluginTypeDatabase {
		return otherPlugins[kind]
	}
	names := make([]string, 0, len(databasePlugins))
	for name := range databasePlugins {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (p builtinPlugins) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	if !p.Contains(name, kind) {
		return consts.Unknown, false
	}
	return consts.Supported, true
}

func (builtinPlugins) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
