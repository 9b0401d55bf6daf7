-- The catalog of the release that made the tables of copies, on postgresql, with rows.
SET TIME ZONE 'UTC';
CREATE TABLE archive ( id SERIAL NOT NULL, run_id VARCHAR NOT NULL, job VARCHAR NOT NULL, name VARCHAR NOT NULL, format VARCHAR NOT NULL, encrypted BOOLEAN NOT NULL, size BIGINT NOT NULL, members INTEGER NOT NULL, created_at TIMESTAMP WITH TIME ZONE NOT NULL, state VARCHAR NOT NULL, PRIMARY KEY (id) );
CREATE INDEX ix_archive_job ON archive (job);
CREATE INDEX ix_archive_name ON archive (name);
CREATE INDEX ix_archive_run_id ON archive (run_id);
CREATE TABLE archive_copy ( id SERIAL NOT NULL, archive_id INTEGER NOT NULL, name VARCHAR NOT NULL, state VARCHAR NOT NULL, PRIMARY KEY (id), FOREIGN KEY(archive_id) REFERENCES archive (id) );
CREATE INDEX ix_archive_copy_archive_id ON archive_copy (archive_id);
CREATE INDEX ix_archive_copy_name ON archive_copy (name);
CREATE TABLE copy_volume ( copy_id INTEGER NOT NULL, number INTEGER NOT NULL, uri VARCHAR NOT NULL, size BIGINT NOT NULL, sha256 VARCHAR, parts JSON, PRIMARY KEY (copy_id, number), FOREIGN KEY(copy_id) REFERENCES archive_copy (id) );
CREATE TABLE file_error ( id SERIAL NOT NULL, run_id VARCHAR NOT NULL, path VARCHAR NOT NULL, code VARCHAR NOT NULL, message VARCHAR NOT NULL, PRIMARY KEY (id) );
CREATE INDEX ix_file_error_run_id ON file_error (run_id);
CREATE TABLE file_version ( id BIGSERIAL NOT NULL, job_id INTEGER NOT NULL, path VARCHAR NOT NULL, kind VARCHAR NOT NULL, size BIGINT NOT NULL, mtime_ns BIGINT NOT NULL, ctime_ns BIGINT NOT NULL, inode BIGINT NOT NULL, device BIGINT, mode INTEGER NOT NULL, uid BIGINT NOT NULL, gid BIGINT NOT NULL, changed BOOLEAN NOT NULL, sha256 VARCHAR, parts JSON, archive_id INTEGER NOT NULL, first_seq INTEGER NOT NULL, gone_seq INTEGER, member VARCHAR, PRIMARY KEY (id) );
CREATE INDEX ix_file_version_job ON file_version (job_id, first_seq);
CREATE INDEX ix_file_version_path ON file_version USING hash (path);
CREATE TABLE job ( id SERIAL NOT NULL, name VARCHAR NOT NULL, PRIMARY KEY (id), UNIQUE (name) );
CREATE TABLE run ( run_id VARCHAR NOT NULL, seq INTEGER NOT NULL, kind VARCHAR NOT NULL, job VARCHAR NOT NULL, status VARCHAR NOT NULL, started_at TIMESTAMP WITH TIME ZONE NOT NULL, finished_at TIMESTAMP WITH TIME ZONE, archive VARCHAR, message VARCHAR, options JSON NOT NULL, counts JSON NOT NULL, mode VARCHAR, base_run VARCHAR, full_run VARCHAR, tags JSON DEFAULT '[]' NOT NULL, is_snapshot BOOLEAN DEFAULT false NOT NULL, PRIMARY KEY (run_id), UNIQUE (job, seq) );
CREATE INDEX ix_run_job ON run (job);
CREATE INDEX ix_run_kind ON run (kind);
CREATE INDEX ix_run_seq ON run (seq);
CREATE INDEX ix_run_status ON run (status);
CREATE TABLE verification ( id SERIAL NOT NULL, archive VARCHAR NOT NULL, run_id VARCHAR NOT NULL, checked_at TIMESTAMP WITH TIME ZONE NOT NULL, status VARCHAR NOT NULL, percent FLOAT NOT NULL, slice INTEGER NOT NULL, slices INTEGER NOT NULL, members INTEGER NOT NULL, damaged INTEGER NOT NULL, PRIMARY KEY (id) );
CREATE INDEX ix_verification_archive ON verification (archive);
CREATE INDEX ix_verification_run_id ON verification (run_id);
CREATE TABLE volume ( archive_id INTEGER NOT NULL, number INTEGER NOT NULL, uri VARCHAR NOT NULL, size BIGINT NOT NULL, sha256 VARCHAR, parts JSON, PRIMARY KEY (archive_id, number), FOREIGN KEY(archive_id) REFERENCES archive (id) );
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));
INSERT INTO alembic_version (version_num) VALUES ('0005');
INSERT INTO run (run_id, seq, kind, job, status, started_at, finished_at, archive, message, options, counts) VALUES
('11111111-0000-4000-8000-000000000001', 1, 'backup', 'docs', 'success', '2026-11-20 10:00:00.000000', '2026-11-20 10:00:05.250000', '/backups/docs_1.zip', NULL, '{"level": 2, "exclude": ["*.tmp"]}', '{"new": 3}'),
('11111111-0000-4000-8000-000000000002', 2, 'backup', 'docs', 'failed', '2026-11-20 11:00:00.000000', '2026-11-20 11:00:01.000000', NULL, 'disk full', '{"level": 2}', '{}'),
('11111111-0000-4000-8000-000000000003', 1, 'restore', '/b\xff \\ \\xff', 'running', '2026-11-20 12:00:00.000000', NULL, NULL, NULL, '{"job": "\udcff"}', '{}');

INSERT INTO verification (id, archive, run_id, checked_at, status, percent, slice, slices, members, damaged) VALUES
(1, '/backups/docs_1.zip', '11111111-0000-4000-8000-000000000009', '2026-11-20 13:00:00.000000', 'success', 5.0, 3, 20, 17, 0),
(2, '/backups/docs_1.zip', '11111111-0000-4000-8000-000000000010', '2026-11-20 14:00:00.000000', 'damaged', 100.0, 0, 1, 300, 2);
SELECT setval('verification_id_seq', 2);
INSERT INTO job (id, name) VALUES (1, 'docs');
INSERT INTO archive (id, run_id, job, name, format, encrypted, size, members, created_at, state) VALUES
(1, '11111111-0000-4000-8000-000000000001', 'docs', '/backups/docs_1.zip', 'zip', false, 1000, 2, '2026-11-20 10:00:00.000000', 'present');
INSERT INTO volume (archive_id, number, uri, size, sha256, parts) VALUES
(1, 0, 'file:///backups/docs_1.zip', 1000, 'abababababababababababababababababababababababababababababababab', NULL);
INSERT INTO file_version (id, job_id, path, kind, size, mtime_ns, ctime_ns, inode, device, mode, uid, gid, changed, sha256, parts, archive_id, first_seq, gone_seq) VALUES
(1, 1, 'docs/a', 'f', 5, 1, 2, 3, NULL, 420, 0, 0, false, 'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd', NULL, 1, 1, NULL),
(2, 1, 'docs/\xff', 'f', 7, 1, 2, -1, NULL, 420, 0, 0, true, NULL, '[[4, "x"], [3, "y"]]', 1, 1, 2);
INSERT INTO archive_copy (id, archive_id, name, state) VALUES (1, 1, 's3://bucket/docs_1.zip', 'present');
INSERT INTO copy_volume (copy_id, number, uri, size, sha256, parts) VALUES
(1, 0, 's3://bucket/docs_1.zip', 1000, 'abababababababababababababababababababababababababababababababab', NULL);
INSERT INTO file_error (id, run_id, path, code, message) VALUES
(1, '11111111-0000-4000-8000-000000000001', '/home/me/docs/b', 'unreadable', 'permission denied');
SELECT setval('job_id_seq', 1);
SELECT setval('archive_id_seq', 1);
SELECT setval('file_version_id_seq', 2);
SELECT setval('file_error_id_seq', 1);
SELECT setval('archive_copy_id_seq', 1);
