-- name: ListItems :many
SELECT * FROM items ORDER BY id DESC LIMIT ?;

-- name: CreateItem :execlastid
INSERT INTO items (name, quantity, created) VALUES (?, ?, ?);

-- name: GetItem :one
SELECT * FROM items WHERE id = ?;

-- name: GetAccount :one
SELECT * FROM accounts WHERE id = ?;

-- name: LockAccount :one
SELECT * FROM accounts WHERE id = ? FOR UPDATE;

-- name: ChangeBalance :exec
UPDATE accounts SET balance = balance + sqlc.arg(change_by) WHERE id = sqlc.arg(id);

-- name: CreateTransfer :execlastid
INSERT INTO transfers (from_account, to_account, amount, created) VALUES (?, ?, ?, ?);
