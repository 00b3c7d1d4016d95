module github.com/vaultpool/vaultpool

go 1.25
