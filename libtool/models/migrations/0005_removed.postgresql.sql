-- Where the only copy of what was removed at a source may be. Frozen: what has been released is never edited.

CREATE TABLE "route_copy" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "dst_id" TEXT NOT NULL,
    "path" TEXT COLLATE "C" NOT NULL,
    "create_time" BIGINT NOT NULL
);
CREATE UNIQUE INDEX "route_copy_dst_id_path" ON "route_copy" ("dst_id", "path");
