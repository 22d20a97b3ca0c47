-- The tables and views of a pipeline's ledger; {schema} is the pipeline's quoted name.

CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.listings (
    listing BIGINT PRIMARY KEY,
    registered_at TIMESTAMP NOT NULL,
    watermark_before TIMESTAMP
);
CREATE TABLE IF NOT EXISTS {schema}.source_files (
    revision BIGINT PRIMARY KEY,
    path VARCHAR NOT NULL,
    size BIGINT NOT NULL,
    tag VARCHAR NOT NULL,
    listing BIGINT NOT NULL,
    watermark_before TIMESTAMP,
    registered_at TIMESTAMP NOT NULL,
    reading VARCHAR NOT NULL,
    state VARCHAR NOT NULL CHECK (state IN ('listed', 'read', 'unreadable', 'removed')),
    error VARCHAR,
    columns VARCHAR[],
    types VARCHAR[]
);
CREATE TABLE IF NOT EXISTS {schema}.event_columns (
    position BIGINT PRIMARY KEY,
    name VARCHAR NOT NULL UNIQUE,
    type VARCHAR NOT NULL
);
CREATE TABLE IF NOT EXISTS {schema}.partition_manifest (
    partition_start TIMESTAMP,
    revision BIGINT NOT NULL,
    class VARCHAR NOT NULL CHECK (class IN ('accepted', 'too_late', 'future', 'invalid')),
    rows BIGINT NOT NULL,
    fingerprint VARCHAR NOT NULL,
    newest TIMESTAMP,
    ids BIGINT  -- different ids, where a file is one partition, whole, and worth counting
);
CREATE TABLE IF NOT EXISTS {schema}.replays (
    path VARCHAR NOT NULL,
    partition_start TIMESTAMP NOT NULL,
    class VARCHAR NOT NULL,
    replayed_at TIMESTAMP NOT NULL,
    PRIMARY KEY (path, partition_start, class)
);
CREATE TABLE IF NOT EXISTS {schema}.partition_state (
    layer VARCHAR NOT NULL CHECK (layer IN ('aggregates', 'features')),
    partition_start TIMESTAMP NOT NULL,
    events VARCHAR,
    code VARCHAR,
    upstream VARCHAR,
    generation BIGINT NOT NULL,
    PRIMARY KEY (layer, partition_start)
);
CREATE TABLE IF NOT EXISTS {schema}.run_cost (
    layer VARCHAR NOT NULL,
    partition_start TIMESTAMP NOT NULL,
    generation BIGINT NOT NULL,
    computed_at TIMESTAMP NOT NULL,
    accepted BIGINT NOT NULL,
    kept BIGINT NOT NULL,
    superseded BIGINT NOT NULL,
    duplicate BIGINT NOT NULL,
    scanned BIGINT NOT NULL,
    seconds DOUBLE NOT NULL
);
CREATE OR REPLACE VIEW {schema}.current_files AS
    -- The current readable revision of each file; a removal that was acknowledged ends it.
    SELECT * FROM {schema}.source_files WHERE state IN ('read', 'removed')
    QUALIFY row_number() OVER (PARTITION BY path ORDER BY revision DESC) = 1;
CREATE OR REPLACE VIEW {schema}.entries AS
    -- What every current file holds for every partition, and whether it counts.
    SELECT m.*, f.path, f.registered_at, f.watermark_before,
        m.class = 'accepted' OR r.path IS NOT NULL AS counts
    FROM {schema}.partition_manifest m
    JOIN {schema}.current_files f USING (revision)
    LEFT JOIN {schema}.replays r USING (path, partition_start, class);
CREATE OR REPLACE VIEW {schema}.dead_letter AS
    SELECT path, partition_start, class, rows, registered_at, watermark_before
    FROM {schema}.entries WHERE NOT counts ORDER BY ALL;
