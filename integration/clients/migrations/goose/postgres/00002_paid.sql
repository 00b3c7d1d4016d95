-- +goose Up
ALTER TABLE goose_orders ADD COLUMN paid boolean NOT NULL DEFAULT false;
INSERT INTO goose_orders (customer, paid) VALUES ('first', true);

-- +goose Down
ALTER TABLE goose_orders DROP COLUMN paid;
